"""Throughput of N trials side by side on one GPU, as processes, for N = 1, 2, ...: how many
`rm.gpu_queue` should be told to run.

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
import tempfile
import threading
import time
from pathlib import Path

from rm.rundir.journal import read
from rm.side_by_side import Entry, Runner

MARGIN = 10.0
LEAST_EPOCHS = 2


def trial(given: argparse.Namespace, seed: int) -> dict[str, object]:
    return {
        "seed": seed,
        "dataset": {"name": given.dataset, "limit": given.limit, "test_limit": given.limit},
        "backbone": {"name": given.backbone},
        "method": {"name": "recursive_mix"},
        "train": {
            "epochs": 100_000,
            "batch_size": 128,
            "batch_norm_groups": 2,
            "precision": "bf16",
        },
        "optimizer": {"name": "sgd", "lr": 0.1, "weight_decay": 5e-4},
        "schedule": {"name": "cosine", "warmup_epochs": 5},
    }


def ends(entry: Entry) -> list[float]:
    """When its epochs ended."""
    return [
        event["time"]
        for event in read(entry.run_dir / "journal.jsonl")
        if event["event"] == "epoch"
    ]


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


def measure(count: int, given: argparse.Namespace, folder: Path) -> tuple[float, float]:
    """(epochs a second over all of them, seconds of the window) with so many side by side."""
    entries = []
    for seed in range(count):
        run_dir = folder / f"{count}-{seed}"
        run_dir.mkdir()
        (run_dir / "trial.json").write_text(json.dumps(trial(given, seed)), encoding="utf-8")
        entries.append(Entry(run_dir.name, run_dir.name, run_dir, 100_000, given.backbone))
    runner = Runner(
        entries,
        count,
        seconds=60 * given.minutes + MARGIN,
        later=float("inf"),
        margin=MARGIN,
        device=given.device,
    )
    thread = threading.Thread(target=runner.run)
    thread.start()
    try:
        while thread.is_alive():
            times = [ends(entry) for entry in entries]
            if any(entry.outcome != "waiting" for entry in entries):
                break
            if all(len(each) > LEAST_EPOCHS for each in times):
                begin, end = window(times)
                if end - begin >= given.seconds and all(
                    epochs_between(each, begin, end) >= LEAST_EPOCHS for each in times
                ):
                    return sum(epochs_between(each, begin, end) for each in times) / (
                        end - begin
                    ), end - begin
            time.sleep(0.5)
    finally:
        runner.stop()
        thread.join()
    logs = "\n".join(
        (entry.run_dir / "log.txt").read_text(encoding="utf-8")[-1000:] for entry in entries
    )
    raise SystemExit(
        f"{count} side by side: not {given.seconds:g} s of all in {given.minutes:g} "
        f"minutes\n{logs}"
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
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    given = parser.parse_args()
    alone = None
    for count in range(given.least, given.most + 1):
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            pace, counted = measure(count, given, Path(folder))
        alone = alone or pace
        print(
            f"{count} side by side: {pace * (given.limit or 50_000):8,.0f} training images/s in "
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
