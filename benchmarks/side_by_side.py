"""Throughput of N trials side by side on one GPU, as processes, for N = 1, 2, ...: how many `rm.gpu_queue` should be told to run.

    python -m benchmarks.side_by_side [--backbone resnet18] [--most 6] [--epochs 4] [--device cuda]

Each trial is Table 3's RecursiveMix with fewer epochs, trained by `rm.train` on real CIFAR-100. The first epoch of each warms up;
a trial's pace is the mean of its other epochs, evaluation included, and the paces are added up.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

from rm.journal import read
from rm.side_by_side import Entry, Runner


def trial(backbone: str, epochs: int, seed: int, limit: int | None) -> dict[str, object]:
    return {
        "seed": seed,
        "dataset": {"name": "cifar100", "limit": limit, "test_limit": limit},
        "backbone": {"name": backbone},
        "method": {"name": "recursive_mix"},
        "train": {"epochs": epochs, "batch_size": 128, "batch_norm_groups": 2, "precision": "bf16"},
        "optimizer": {"name": "sgd", "lr": 0.1, "weight_decay": 5e-4},
        "schedule": {"name": "cosine", "warmup_epochs": 1},
    }


def measure(count: int, given: argparse.Namespace, folder: Path) -> tuple[float, float]:
    """(images a second over all of them, seconds of a trial's epoch) with so many side by side."""
    entries = []
    for seed in range(count):
        run_dir = folder / f"{count}-{seed}"
        run_dir.mkdir()
        described = trial(given.backbone, given.epochs, seed, given.limit)
        (run_dir / "trial.json").write_text(json.dumps(described), encoding="utf-8")
        entries.append(Entry(run_dir.name, run_dir.name, run_dir, given.epochs, given.backbone))
    Runner(entries, count, seconds=given.minutes * 60, later=float("inf"), margin=5, device=given.device).run()
    times = [
        [event["time"] for event in read(e.run_dir / "journal.jsonl") if event["event"] == "epoch"] for e in entries
    ]
    if any(len(found) < 2 for found in times):
        raise SystemExit(f"{count} side by side: not two epochs of each in {given.minutes:g} minutes; see {folder}")
    begin, end = max(found[0] for found in times), min(found[-1] for found in times)
    images = (given.limit or 50_000) * sum((len(found) - 1) / (found[-1] - found[0]) for found in times)
    if end <= begin:
        print(f"  note: the {count} were never all at it together; take more --epochs")
    return images, sum((found[-1] - found[0]) / (len(found) - 1) for found in times) / count


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--most", type=int, default=6)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--limit", type=int, help="train and test on this many images only")
    parser.add_argument("--minutes", type=float, default=3.0, help="at most, for each N")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    given = parser.parse_args()
    alone = None
    for count in range(1, given.most + 1):
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            images, seconds = measure(count, given, Path(folder))
        alone = alone or images
        print(
            f"{count} side by side: {images:8,.0f} images/s in all, {images / alone:.2f} times one; {seconds:.2f} s an epoch each; "
            f"took {time.monotonic() - began:.0f} s",
            flush=True,
        )
    print(f"load of this machine over the last minute: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
