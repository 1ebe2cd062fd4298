"""What launching costs a trial beyond its training, and how near to the ideal many unequal trials
come together.

    python -m benchmarks.launch_cost [--backend local|ray] [--trials 60] [--workers 2]     many
    trials of one tiny epoch
    python -m benchmarks.launch_cost --makespan [--backend local|ray|slurm]                unequal
    trials, longest first
    python -m benchmarks.launch_cost --plain tune|tune-reuse|submitit [--trials 20]        the
    libraries alone, doing nothing

The first two go through `launch/run.py`, MLflow included. Start-up is the time until the first
trial begins to train; between two trials is the time from the last event of one to the first of
the next, in one worker. Some of it is the trial's own, launched or not: plain loops over
`Trainer(trial)`, as many side by side as there were workers, say how much; what remains is the
cost of launching (lease, reading the trial, provenance, the answer to the launcher). The makespan
is from the first trial's first event to the last one's last; the ideal is the sum of all trials'
own times over the number of workers. On SLURM, started on this machine as the tests do,
`--workers` jobs share the trials (trials_per_job): one for each would spend more on its start than
on such short work. Numbers are of this moment: a machine that does other things as well says
little.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
SPEC = """\
title: "Launch cost"
seeds: SEEDS
trial:
  dataset: {name: digits, size: 8, limit: 16, test_limit: 16}
  backbone: {name: resnet8, width: 8}
  train: {epochs: 1, batch_size: 16}
  optimizer: {name: sgd, lr: 0.1}
  schedule: constant
rows:
  - {row: RM, method: recursive_mix}
"""
UNEQUAL = """\
title: "Makespan"
seeds: SEEDS
trial:
  dataset: {name: digits, size: 16, limit: 70, test_limit: 60}
  backbone: {name: resnet8, width: 8}
  method: recursive_mix
  train: {epochs: 1, batch_size: 16}
  optimizer: {name: sgd, lr: 0.1}
  schedule: constant
axes:
  train.epochs: [5, 10, 20, 40, 80, 160]
"""
Times = tuple[int, float, float]
"""Of a run: worker's process, first event, last event."""


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--backend", choices=["local", "ray", "slurm"], default="local")
    parser.add_argument("--makespan", action="store_true")
    parser.add_argument("--plain", choices=sorted(PLAIN))
    args = parser.parse_args()
    if args.plain:
        began = time.time()
        took = PLAIN[args.plain](args.trials, args.workers)
        whole = time.time() - began
        print(
            f"{args.plain}: {args.trials} trials that do nothing, {args.workers} at a time: "
            f"{whole:.1f} s in all"
        )
        print(f"start-up {whole - took:.1f} s, then {1000 * took / args.trials:.0f} ms a trial")
    elif args.backend == "slurm" and not args.makespan:
        parser.error("benchmarks.slurm_submit measures what SLURM costs")
    elif args.trials < 4 * args.workers:
        parser.error(f"so few trials say nothing: at least {4 * args.workers}, four a worker")
    elif args.makespan:
        makespan(args.trials, args.workers, args.backend)
    else:
        cost(args.trials, args.workers, args.backend)
    print(f"load average: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


def cost(trials: int, workers: int, backend: str) -> None:
    """Start-up, the cost of each trial, and of a second time when all is finished."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.time()
        runs = _run(SPEC, Path(folder), trials, workers, backend)
        wall = time.time() - began
        again = time.time()
        _run(SPEC, Path(folder), trials, workers, backend)
        again = time.time() - again
        own = _own_seconds(sorted(Path(folder, "runs").iterdir()), workers)
    gaps = []
    for pid in {run[0] for run in runs}:
        mine = sorted((first, last) for owner, first, last in runs if owner == pid)
        gaps += [start - end for (_, end), (start, _) in itertools.pairwise(mine)]
    print(f"{backend}: {trials} trials, {workers} workers: {wall:.1f} s from command to prompt")
    print(
        "start-up until the first trial trains: "
        f"{min(first for _, first, _ in runs) - began:.1f} s"
    )
    print(
        f"between two trials: {1000 * median(gaps):.1f} ms (median), "
        f"{1000 * max(gaps):.0f} ms (largest); of that data, network and optimizer, as in a plain "
        f"loop: {1000 * own:.1f} ms"
    )
    print(f"cost of launching a trial: {1000 * (median(gaps) - own):.1f} ms")
    print(f"the same command again, all finished: {again:.2f} s")


def _own_seconds(run_dirs: list[Path], workers: int) -> float:
    """Median seconds that each of these trials takes to be ready to train without a launcher."""
    threads = max(1, (os.cpu_count() or 1) // workers)
    shares = [run_dirs[first::workers] for first in range(workers)]
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        return median(itertools.chain(*pool.map(_plain_loop, shares, [threads] * workers)))


def _plain_loop(run_dirs: list[Path], threads: int) -> list[float]:
    """The same, one by one; the first two find nothing warm and do not count."""
    import torch

    from rm.trainer import Trainer
    from rm.trial import load_trial

    torch.set_num_threads(threads)
    took = []
    for run_dir in run_dirs:
        trial = load_trial(run_dir / "trial.json")
        began = time.perf_counter()
        trainer = Trainer(trial, torch.device("cpu"))
        took.append(time.perf_counter() - began)
        trainer.close()
    return took[2:]


def makespan(trials: int, workers: int, backend: str) -> None:
    """Trials of 5 to 160 epochs, which the spec lists shortest first."""
    with tempfile.TemporaryDirectory() as folder:
        if backend == "slurm":
            from tests.support.slurm.cluster import running

            words = (
                "--wait",
                "--slurm",
                "cpus_per_gpu=4",
                "--slurm",
                f"trials_per_job={-(-trials // workers)}",
            )
            with running() as cluster:
                environment = {**cluster.environment, "RM_THREADS": "1"}
                runs = _run(
                    UNEQUAL,
                    Path(folder),
                    trials // 6,
                    workers,
                    backend,
                    *words,
                    environment=environment,
                )
        else:
            runs = _run(UNEQUAL, Path(folder), trials // 6, workers, backend)
    work = sum(last - first for _, first, last in runs)
    span = max(last for *_, last in runs) - min(first for _, first, _ in runs)
    print(f"{backend}: {len(runs)} unequal trials, {workers} workers: {span:.1f} s")
    print(
        f"ideal: {work:.1f} s of work / {workers} = {work / workers:.1f} s, "
        f"{work / workers / span:.3f} of the makespan"
    )


def _run(
    spec: str,
    folder: Path,
    seeds: int,
    workers: int,
    backend: str,
    *more: str,
    environment: Mapping[str, str] | None = None,
) -> list[Times]:
    file = folder / "cost.yaml"
    file.write_text(spec.replace("SEEDS", str(list(range(seeds)))), encoding="utf-8")
    words = [str(file), "--workers", str(workers), "--backend", backend, *more]
    variables = {
        **os.environ,
        **(environment or {}),
        "RM_RESULTS_DIR": str(folder),
        "MLFLOW_TRACKING_URI": "",
    }
    command = [sys.executable, str(ROOT / "launch" / "run.py"), *words]
    subprocess.run(command, env=variables, check=True, capture_output=True)
    return [_times(path) for path in (folder / "runs").iterdir()]


def _times(run_dir: Path) -> Times:
    events = [
        json.loads(line)
        for line in (run_dir / "journal.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    provenance = json.loads((run_dir / "provenance.json").read_text(encoding="utf-8"))
    return provenance[-1]["pid"], events[0]["time"], events[-1]["time"]


def _tune(trials: int, workers: int, *, reuse: bool = False) -> float:
    """Plain Ray Tune: a grid over a trainable that returns at once; with `reuse`, a class whose
    actor is kept.
    """
    token = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": uuid.uuid4().hex,
    }  # else Ray leaves one in the home folder
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", **token}
    import ray
    from ray import tune

    class Kept(tune.Trainable):  # type: ignore[misc]
        def reset_config(self, new_config: dict[str, int]) -> bool:
            return True

        def step(self) -> dict[str, object]:
            return {"value": 1, "done": True}

        def save_checkpoint(self, checkpoint_dir: str) -> None: ...

        def load_checkpoint(self, checkpoint: object) -> None: ...

    def once(config: dict[str, int]) -> dict[str, int]:
        return {"value": 1}

    with tempfile.TemporaryDirectory(prefix="rt-", dir="/tmp") as folder:
        ray.init(
            address="local",
            num_cpus=workers,
            include_dashboard=False,
            log_to_driver=False,
            _temp_dir=folder,
        )
        began = time.time()
        tune.Tuner(
            tune.with_resources(Kept if reuse else once, {"cpu": 1}),
            param_space={"trial": tune.grid_search(list(range(trials)))},
            tune_config=tune.TuneConfig(reuse_actors=reuse),
            run_config=tune.RunConfig(storage_path=f"{folder}/results", verbose=0),
        ).fit()
        took = time.time() - began
        ray.shutdown()
    return took


def _submitit(trials: int, workers: int) -> float:
    """Submitit's local executor, one process a job without torch; its jobs run side by side, so a
    batch at a time.
    """
    import submitit

    began = time.time()
    with tempfile.TemporaryDirectory() as folder:
        executor = submitit.LocalExecutor(folder)
        for start in range(0, trials, workers):
            jobs = [executor.submit(os.getpid) for _ in range(min(workers, trials - start))]
            for job in jobs:
                job.result()
    return time.time() - began


PLAIN: dict[str, Callable[[int, int], float]] = {
    "tune": _tune,
    "tune-reuse": lambda trials, workers: _tune(trials, workers, reuse=True),
    "submitit": _submitit,
}

if __name__ == "__main__":
    main()
