"""Throughput of N trials side by side on one GPU, as processes, for N = 1, 2, ...: what to give
--trials-per-gpu.

    python -m benchmarks.side_by_side [--backbone resnet18] [--most 6] [--seconds 15] [--device
    cuda]

Each trial is Table 3's RecursiveMix, trained by `rm.train` on real CIFAR-100, evaluation of each
epoch included. What counts is the time in which all N are past their first epoch, for at least
--seconds and two epochs of each; then they are stopped.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rm.rundir.journal import read

ROOT = Path(__file__).resolve().parents[1]
LEAST_EPOCHS = 2


def trial(args: argparse.Namespace, seed: int) -> dict[str, object]:
    return {
        "seed": seed,
        "dataset": {"name": args.dataset, "limit": args.limit, "test_limit": args.limit},
        "backbone": {"name": args.backbone},
        "method": {"name": "recursive_mix"},
        "train": {
            "epochs": 100_000,
            "batch_size": 128,
            "batch_norm_groups": 2,
            "precision": "bf16",
            "cuda_graph": args.cuda_graph,
        },
        "optimizer": {"name": "sgd", "lr": 0.1, "weight_decay": 5e-4},
        "schedule": {"name": "cosine", "warmup_epochs": 5},
    }


def start(run_dir: Path, count: int, device: str) -> "subprocess.Popen[bytes]":
    """A process of `rm.train`, with its share of the cores."""
    words = [sys.executable, "-m", "rm.train", str(run_dir / "trial.json"), str(run_dir)]
    threads = str(max(1, (os.cpu_count() or 1) // count))
    with (run_dir / "log.txt").open("ab") as log:
        return subprocess.Popen(
            [*words, "--device", device],
            stdout=log,
            stderr=log,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": threads},
        )


def ends(run_dir: Path) -> list[float]:
    """When its epochs ended."""
    journal = run_dir / "journal.jsonl"
    events = read(journal) if journal.exists() else []
    return [event["time"] for event in events if event["event"] == "epoch"]


def window(times: list[list[float]]) -> tuple[float, float]:
    """From when the last one was past its first epoch to the earliest of the last epochs' ends."""
    return max(each[0] for each in times), min(each[-1] for each in times)


def epochs_between(times: list[float], begin: float, end: float) -> float:
    """How many epochs, a part of one counted as that part, a trial trained from `begin` to
    `end`.
    """
    return sum(
        max(0.0, min(late, end) - max(early, begin)) / (late - early)
        for early, late in itertools.pairwise(times)
    )


def measure(count: int, args: argparse.Namespace, folder: Path) -> tuple[float, float]:
    """(epochs a second over all of them, seconds of the window) with so many side by side."""
    run_dirs = [folder / f"{count}-{seed}" for seed in range(count)]
    for seed, run_dir in enumerate(run_dirs):
        run_dir.mkdir()
        (run_dir / "trial.json").write_text(json.dumps(trial(args, seed)), encoding="utf-8")
    processes = [start(run_dir, count, args.device) for run_dir in run_dirs]
    deadline = time.monotonic() + 60 * args.minutes
    try:
        while time.monotonic() < deadline and all(p.poll() is None for p in processes):
            times = [ends(run_dir) for run_dir in run_dirs]
            if all(len(each) > LEAST_EPOCHS for each in times):
                begin, end = window(times)
                epochs = [epochs_between(each, begin, end) for each in times]
                if end - begin >= args.seconds and min(epochs) >= LEAST_EPOCHS:
                    return sum(epochs) / (end - begin), end - begin
            time.sleep(0.5)
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()
    logs = "\n".join((run_dir / "log.txt").read_text()[-1000:] for run_dir in run_dirs)
    raise SystemExit(
        f"{count} side by side: not {args.seconds:g} s of all in {args.minutes:g} minutes\n{logs}"
    )


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--dataset", default="cifar100")
    parser.add_argument("--least", type=int, default=1)
    parser.add_argument("--most", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=15.0, help="that count, at least")
    parser.add_argument("--limit", type=int, help="train and test on this many images only")
    parser.add_argument("--minutes", type=float, default=3.0, help="at most, for each N")
    parser.add_argument("--cuda-graph", action="store_true", help="train.cuda_graph")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    args = parser.parse_args()
    alone = None
    for count in range(args.least, args.most + 1):
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            pace, counted = measure(count, args, Path(folder))
        alone = alone or pace
        print(
            f"{count} side by side: {pace * (args.limit or 50_000):8,.0f} training images/s in "
            f"all, {pace / alone:.2f} times the "
            f"first line; {count / pace:.2f} s an epoch each; {counted:.0f} s counted, "
            f"{time.monotonic() - began:.0f} s taken",
            flush=True,
        )
    print(
        f"load of this machine over the last minute: {os.getloadavg()[0]:.1f} on {os.cpu_count()} "
        "cores"
    )


if __name__ == "__main__":
    main()
