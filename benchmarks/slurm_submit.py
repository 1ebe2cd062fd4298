"""What SLURM costs: seconds from the command to the last sbatch, to the prompt, and of `status`;
job start to first step.

    python -m benchmarks.slurm_submit [--trials 60 1000 10000] [--overhead 6]

On a real SLURM that it starts on this machine (tests/support/slurm/cluster.py). The many trials
are held, so that nothing but submitting is measured; the others run, one a job, on three nodes of
two pretend GPUs, of which the CPU is shared.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from statistics import median

from launch.backends.slurm.backend import SlurmBackend
from tests.support.slurm.cluster import INSTALL, Cluster, missing, running, wait_until

ROOT = Path(__file__).resolve().parents[1]
SPEC = """\
title: "Submission cost"
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


def launch(cluster: Cluster, folder: Path, trials: int, *words: str) -> tuple[float, list[Path]]:
    """Submit that many trials; returns when the command began, and their run directories."""
    spec = folder / "cost.yaml"
    spec.write_text(SPEC.replace("SEEDS", str(list(range(trials)))), encoding="utf-8")
    os.environ |= {
        **cluster.environment,
        "RM_RESULTS_DIR": str(folder),
        "RM_THREADS": "1",
        "MLFLOW_TRACKING_URI": "",
    }
    began = time.time()
    command = [sys.executable, str(ROOT / "launch" / "run.py"), str(spec), "--backend", "slurm"]
    subprocess.run(
        [*command, "--slurm", "cpus_per_gpu=4", *words], check=True, capture_output=True
    )
    return began, sorted((folder / "runs").iterdir())


def submission(cluster: Cluster, trials: int) -> None:
    """Print what it costs to submit that many."""
    with tempfile.TemporaryDirectory() as folder:
        began, run_dirs = launch(cluster, Path(folder), trials, "--slurm", "sbatch.hold=true")
        prompt = time.time() - began
        arrays = list(Path(folder).glob("slurm/*/submitted.json"))
        last = max(json.loads(path.read_text())["time"] for path in arrays) - began
        asking = time.time()
        states = {job.state for job in SlurmBackend.jobs(run_dirs).values()}
        asking = time.time() - asking
        words = [
            sys.executable,
            str(ROOT / "launch" / "run.py"),
            "status",
            str(Path(folder) / "cost.yaml"),
            "--json",
        ]
        looking = time.time()
        said = subprocess.run(words, check=True, capture_output=True, text=True).stdout
        looking = time.time() - looking
        waiting = sum(trial["state"] == "waiting" for trial in json.loads(said)["trials"])
        print(
            f"{trials} trials, {len(arrays)} arrays: {last:.1f} s to the last sbatch, "
            f"{prompt:.1f} s to the prompt; "
            f"asked for all their states ({', '.join(sorted(states))}) in {asking:.2f} s; "
            f"`status` ({waiting} waiting) in {looking:.2f} s",
            flush=True,
        )
        cluster.ask("scancel", "--quiet", f"--user={os.environ.get('USER') or 'root'}")


def overhead(cluster: Cluster, trials: int) -> None:
    """Print how long a job takes from its start to the trial's first step, and from the trial's
    end to its own.
    """
    with tempfile.TemporaryDirectory() as folder:
        _, run_dirs = launch(cluster, Path(folder), trials)
        wait_until(
            lambda: all((run_dir / "result.json").exists() for run_dir in run_dirs),
            "finished",
            900,
        )
        wait_until(
            lambda: {job.state for job in SlurmBackend.jobs(run_dirs).values()} == {"gone"},
            "all jobs done",
        )
        before, after, task = [], [], []
        for run_dir in run_dirs:
            events = [
                json.loads(line) for line in (run_dir / "journal.jsonl").read_text().splitlines()
            ]
            noted = [
                json.loads(line) for line in (run_dir / "jobs.jsonl").read_text().splitlines()
            ][-1]
            start, end = job_times(cluster, noted["id"])
            before.append(events[0]["time"] - start)
            task.append(noted["time"] - start)
            after.append(end - events[-1]["time"])
        print(
            f"{trials} jobs of one trial: {median(before):.1f} s from the job's start to the "
            "first step (the task began after "
            f"{median(task):.1f} s), {max(0.0, median(after)):.1f} s from the trial's end to the "
            "job's (medians; SLURM counts "
            "whole seconds)"
        )


def job_times(cluster: Cluster, identity: str) -> tuple[float, float]:
    """When SLURM says that a job began and ended."""
    said = dict(
        word.partition("=")[::2]
        for word in cluster.ask("scontrol", "-o", "show", "job", identity).split()
    )
    begin, end = (
        datetime.fromisoformat(said[key]).timestamp() for key in ("StartTime", "EndTime")
    )
    return begin, end


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, nargs="*", default=[60, 1000, 10000])
    parser.add_argument("--overhead", type=int, default=6, metavar="TRIALS")
    args = parser.parse_args()
    if lacking := missing():
        parser.exit(2, f"no SLURM here ({', '.join(lacking)} not found): {INSTALL}\n")
    with running() as cluster:
        for trials in args.trials:
            submission(cluster, trials)
        if args.overhead:
            overhead(cluster, args.overhead)
    print(f"load of this machine at the end: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
