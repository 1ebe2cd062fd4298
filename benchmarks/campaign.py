"""A whole campaign on the real local backend, with trials that sleep instead of training.

    python -m benchmarks.campaign [--speed 1000] [--gpus 64] [--preempt-every 6]

All trials of all specs, with the GPUs that their specs ask for and as long as `benchmarks.cost`
reckons, wait for their parents, are started, killed and resumed by the launcher that trains real
ones. Nodes of eight GPUs are taken away now and then: all that runs there is killed at once. A
tenth of the way the launcher itself is stopped and started again. Whatever the launcher spends of
its own counts `--speed` times as long as in a real campaign, the start of a worker too: as a trial
can be killed several times during it, that alone does not fail one here (`MOST_DEATHS`).
"""

import argparse
import json
import math
import os
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np

from benchmarks.campaign_check import check_whole
from benchmarks.cost import operations
from benchmarks.sleeping_worker import GPUS_OF_A_NODE, VARIABLE, Reaper
from launch.backends import queue
from launch.backends.base import Limits
from launch.backends.local.backend import LocalBackend
from launch.backends.local.pool import WorkerProcess
from launch.paths import EXPERIMENTS
from launch.plan import Plan, make_plan
from launch.runs import committed
from launch.runs.create import prepare
from launch.runs.job import Outcome
from launch.runs.rundir import RunDir
from launch.spec.load import load_spec
from launch.spec.trial import Trial

TICK_HOURS = 0.1
"""Between two checkpoints."""
LEAST_HOURS = 0.02
UNKNOWN = 3e17
"""Operations of a trial whose arithmetic `benchmarks.cost` does not know."""


class Report(NamedTuple):
    """What came of a campaign, in seconds.

    work    of all trials times their GPUs
    ideal   the same over all GPUs
    chain   of the longest chain of trials that start from each other
    calls   what the launcher did, by name
    """

    trials: int
    work: float
    ideal: float
    chain: float
    makespan: float
    killed: int
    calls: Mapping[str, int]


class Calls:
    """Counts what the backend does, as its watcher."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def on_start(self, run_dir: Path) -> None:
        self.counts["trials sent to a worker"] += 1

    def on_death(self, run_dir: Path, how: str) -> None:
        self.counts["workers that died in a trial"] += 1

    def on_wait(self, run_dir: Path, for_whom: str) -> None:
        self.counts["trials found busy"] += 1

    def on_end(self, run_dir: Path, outcome: Outcome) -> None:
        self.counts[f"trials {outcome.status}"] += 1
        if outcome.status in ("failed", "blocked"):
            raise SystemExit(f"{run_dir}: {outcome.status}: {outcome.error}")

    def tick(self) -> None:
        self.counts["rounds of the loop"] += 1


class SleepingProcess(WorkerProcess):
    """Counted."""

    module = "benchmarks.sleeping_worker"
    started = 0

    def __init__(self, environment: Mapping[str, str]) -> None:
        type(self).started += 1
        super().__init__(environment)


def hours(trial: Trial, gpus: int, tflops: float) -> float:
    """How long a trial takes on its GPUs."""
    try:
        needed = operations(trial)
    except KeyError:
        needed = UNKNOWN
    return max(needed / tflops / 3.6e15 / gpus, LEAST_HOURS)


def plan_of_everything(runs: Path, folder: Path = EXPERIMENTS) -> Plan:
    """All trials of all specs, those with committed records too; quoted rows have none, searches
    only what they found.
    """
    specs = [load_spec(path) for path in sorted(folder.rglob("*.yaml"))]
    plan = make_plan(specs, runs)
    for name in plan.committed:
        committed.train_again(runs, name)
    return make_plan(specs, runs) if plan.committed else plan


def simulate(
    plan: Plan,
    folder: Path,
    lengths: Mapping[str, float],
    *,
    gpus: int,
    tick: float,
    preemptions: Iterable[tuple[float, int]] = (),
    restarts: Sequence[float] = (),
) -> Report:
    """Run trials of the plan; SystemExit where anything is lost.

    lengths         trial id -> seconds that it sleeps
    tick            seconds between two checkpoints
    preemptions     seconds to wait, and the node of eight GPUs that is taken away then
    restarts        seconds after which the launcher is stopped, and started again
    """
    uses = [plan.unique[name] for name in lengths]
    prepare(uses, folder / "runs")
    ticks = {name: length / tick for name, length in lengths.items()}
    content = json.dumps({"tick": tick, "ticks": ticks})
    (folder / "sleeps.json").write_text(content, encoding="utf-8")
    changed = {
        VARIABLE: str(folder / "sleeps.json"),
        "CUDA_VISIBLE_DEVICES": ",".join(map(str, range(gpus))),
    }
    longest = chains(plan, lengths)
    run_dirs = [folder / "runs" / name for name in longest]
    watcher, SleepingProcess.started = Calls(), 0
    reaper = Reaper(preemptions)
    began = time.time()
    patient = mock.patch.object(queue, "MOST_DEATHS", math.inf)
    with mock.patch.dict(os.environ, changed), patient, reaper:
        for after in (*restarts, None):
            _run(run_dirs, watcher, after)
    makespan = time.time() - began
    work = sum(lengths[use.trial.id] * use.cell.resources.processes for use in uses)
    calls = {**watcher.counts, "worker processes started": SleepingProcess.started}
    chain = max(longest.values())
    report = Report(len(uses), work, work / gpus, chain, makespan, reaper.killed, calls)
    try:
        check_whole({folder / "runs" / name: math.ceil(n) for name, n in ticks.items()})
    except SystemExit as error:
        raise SystemExit(f"{error}\n{report}") from None
    return report


def preemptions(gpus: int, every: float) -> Iterator[tuple[float, int]]:
    """Without end: each node is there for so many seconds on average."""
    generator, nodes = np.random.default_rng(0), max(1, gpus // GPUS_OF_A_NODE)
    while every:
        yield float(generator.exponential(every / nodes)), int(generator.integers(nodes))


def _run(run_dirs: Sequence[Path], watcher: Calls, stop_after: float | None) -> None:
    """Start the launcher, and stop it after so many seconds."""
    left = [run_dir for run_dir in run_dirs if RunDir(run_dir).state() != "finished"]
    timer = threading.Timer(stop_after or 0, os.kill, (os.getpid(), signal.SIGTERM))
    if stop_after is not None:
        timer.start()
    if left:
        LocalBackend(SleepingProcess).run(left, watcher, Limits())
    timer.cancel()


def chains(plan: Plan, lengths: Mapping[str, float]) -> dict[str, float]:
    """Of each trial and the longest chain of trials that start from it, longest first."""
    children: dict[str, list[str]] = {}
    for name in lengths:
        for parent in plan.parents(name):
            children.setdefault(parent, []).append(name)

    def chain(name: str) -> float:
        return lengths[name] + max(map(chain, children.get(name, ())), default=0.0)

    found = {name: chain(name) for name in lengths}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def main() -> None:
    """The command."""
    args = _parser().parse_args()
    hour = 3600 / args.speed
    with tempfile.TemporaryDirectory() as folder:
        plan = plan_of_everything(Path(folder, "runs"))
        lengths = {
            name: hour * hours(use.trial, use.cell.resources.processes, args.tflops)
            for name, use in plan.unique.items()
        }
        if args.trials:
            lengths = first_of(plan, lengths, args.trials)
        report = simulate(
            plan,
            Path(folder),
            lengths,
            gpus=args.gpus,
            tick=TICK_HOURS * hour,
            preemptions=preemptions(args.gpus, args.preempt_every * hour),
            restarts=[0.1 * sum(lengths.values()) / args.gpus],
        )
    for line in told(report, hour, args):
        print(line)
    print(f"load average: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


def told(report: Report, hour: float, args: argparse.Namespace) -> Iterator[str]:
    yield (
        f"{report.trials} trials, {report.work / hour:,.0f} GPU-hours, on {args.gpus} GPUs at "
        f"{args.speed:g} times the speed: {report.makespan:.0f} s for {report.makespan / hour:.1f}"
        " hours"
    )
    yield (
        f"ideal: {report.ideal / hour:.1f} hours (all work over all GPUs; the longest chain takes "
        f"{report.chain / hour:.1f}): {max(report.ideal, report.chain) / report.makespan:.3f} of "
        "the makespan"
    )
    yield f"{report.killed} workers killed; nothing lost, nothing done twice, parents first"
    yield ", ".join(f"{count} {what}" for what, count in sorted(report.calls.items()))


def first_of(plan: Plan, lengths: Mapping[str, float], count: int) -> dict[str, float]:
    """So many trials, with what they start from."""
    names: dict[str, None] = {}

    def add(name: str) -> None:
        for parent in plan.parents(name):
            add(parent)
        names[name] = None

    for name in sorted(lengths, key=lambda name: not plan.parents(name))[:count]:
        add(name)
    return {name: lengths[name] for name in names}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--speed", type=float, default=1000)
    parser.add_argument("--gpus", type=int, default=64, help="default: 64")
    parser.add_argument("--trials", type=int, help="only so many, chains first")
    parser.add_argument(
        "--preempt-every", type=float, default=6, help="hours a node is there (default: 6)"
    )
    parser.add_argument("--tflops", type=float, default=30, help="of a GPU (default: 30)")
    return parser


if __name__ == "__main__":
    main()
