"""What a trial costs its worker beyond its training, in processor time and in waits for the disk.

    python -m benchmarks.worker_cost [--trials 60]

Runs trials of one tiny epoch one after the other in this process, as a warm worker does. Between
the end of one and the first event of the next stand the lease, the provenance, the data and the
network. Processor time hardly depends on what else the machine does; the waits do.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from benchmarks.launch_cost import SPEC


class Cost(NamedTuple):
    """Of one trial.

    between    seconds from the trial before: (processor, clock, waiting for fsync)
    syncs      fsyncs between; in all
    """

    between: tuple[float, float, float]
    syncs: tuple[int, int]


class Meter:
    """Reads the clocks at the ends of a training, and times every fsync."""

    def __init__(self) -> None:
        self.waited, self.syncs = 0.0, 0
        self.ended: tuple[float, float, float, int] | None = None
        self.costs: list[Cost] = []

    def read(self) -> tuple[float, float, float, int]:
        return time.process_time(), time.perf_counter(), self.waited, self.syncs

    def on_event(self, event: str) -> None:
        now = self.read()
        if event == "started" and self.ended is not None:
            cpu, clock, waited, syncs = (n - e for n, e in zip(now, self.ended, strict=True))
            self.costs.append(Cost((cpu, clock, waited), (int(syncs), 0)))
        elif event == "finished":
            if self.costs and self.ended is not None:
                last = self.costs[-1]
                all_of_them = now[3] - self.ended[3]
                self.costs[-1] = last._replace(syncs=(last.syncs[0], int(all_of_them)))
            self.ended = now

    @contextmanager
    def watching(self) -> Iterator[None]:
        from rm.rundir.journal import Journal

        fsync, append = os.fsync, Journal.append

        def timed(handle: Any) -> None:
            began = time.perf_counter()
            fsync(handle)
            self.waited += time.perf_counter() - began
            self.syncs += 1

        def noted(journal: Journal, event: str, **more: Any) -> None:
            self.on_event(event)
            append(journal, event, **more)

        os.fsync, Journal.append = timed, noted  # type: ignore[assignment, method-assign]
        try:
            yield
        finally:
            os.fsync, Journal.append = fsync, append  # type: ignore[method-assign]


def measure(trials: int, folder: Path) -> list[Cost]:
    """Costs of all trials but the first two, which find nothing warm."""
    from launch.plan import make_plan
    from launch.runs.create import prepare
    from launch.spec.load import load_spec
    from launch.worker.worker import run_one, warm_up

    spec, runs = folder / "cost.yaml", folder / "runs"
    spec.write_text(SPEC.replace("SEEDS", str(list(range(trials)))), encoding="utf-8")
    plan = make_plan([load_spec(spec)], runs)
    prepare(plan.to_prepare(), runs)
    warm_up()
    meter = Meter()
    with meter.watching():
        for use in plan.to_run():
            answer = run_one(runs / use.trial.id, lambda: False)
            if answer["outcome"] != "finished":
                raise SystemExit(f"{use.label}: {answer['error']}")
    return meter.costs[1:]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=60)
    args = parser.parse_args()
    os.environ.setdefault("RM_THREADS", "1")
    with tempfile.TemporaryDirectory() as folder:
        costs = measure(args.trials, Path(folder))
    cpu, clock, waited = ([1000 * cost.between[which] for cost in costs] for which in range(3))
    print(f"{len(costs)} trials, between two of them (median; least):")
    print(f"  processor      {median(cpu):6.1f} ms; {min(cpu):.1f} ms")
    print(f"  clock          {median(clock):6.1f} ms; {min(clock):.1f} ms")
    print(f"  of that fsync  {median(waited):6.1f} ms; {min(waited):.1f} ms")
    between, whole = (max(cost.syncs[which] for cost in costs) for which in range(2))
    print(f"fsyncs: {between} between two trials, {whole} a trial, its training included")
    print(f"load average: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
