"""The mirror's speed beside MLflow's own: points a second, runs a minute, and the price of having
nothing to do.

    python -m benchmarks.mirror [--long 20] [--many 10000] [--folder DIR]

Points: LONG runs of 300 epochs, 11 metrics each, are mirrored into a new sqlite store; the same
points then go into a second new store by MLflow's `log_batch` in calls of 1,000, into runs that
exist already. Runs: MANY finished runs of 10 epochs are mirrored by `launch/run.py sync`, then
`sync` is called again. Journals are written as the worker writes them; nothing trains.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
METRICS = (
    "lr",
    "area",
    "consistency_loss",
    "train_loss",
    "train_top1_error",
    "test_loss",
    "test_top1_error",
    "test_top5_error",
    "epoch_seconds",
    "images_per_second",
)
FINALS = ("best_top1_error", "last_top1_error", "median_last_10_top1_error", "best_epoch")
TRIAL = {
    "numerics": 1,
    "dataset": {"name": "cifar100"},
    "backbone": {"name": "resnet18"},
    "method": {"name": "recursive_mix", "alpha": 0.5, "omega": 0.1},
    "train": {
        "epochs": 300,
        "batch_size": 128,
        "precision": "bf16",
        "batch_norm_groups": 2,
        "label_smoothing": 0.0,
    },
    "optimizer": {
        "name": "sgd",
        "lr": 0.1,
        "momentum": 0.9,
        "nesterov": False,
        "weight_decay": 5e-4,
    },
    "schedule": {"name": "cosine", "warmup_epochs": 5},
}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--long", type=int, default=20)
    parser.add_argument("--many", type=int, default=10_000)
    parser.add_argument(
        "--folder", type=Path, help="where to put the stores (default: a temporary folder)"
    )
    args = parser.parse_args()
    print(f"load at the start: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        if args.long:
            _points(Path(folder) / "long", args.long)
        if args.many:
            _runs(Path(folder) / "many", args.many)


def _points(results: Path, count: int) -> None:
    """Alternately a run by the mirror and the same points by log_batch, so that both see the same
    load.
    """
    from mlflow import MlflowClient
    from mlflow.entities import Metric

    os.environ["RM_RESULTS_DIR"] = str(results)
    os.environ["MLFLOW_TRACKING_URI"] = ""
    from launch.tracking import mirror

    run_dirs = [_finished_run(results / "runs", number, 300) for number in range(count + 1)]
    plain = MlflowClient(f"sqlite:///{results / 'plain.db'}")
    experiment = plain.create_experiment("plain")
    mirror.mirror(run_dirs[:1])  # makes the store
    points = [
        Metric(key, random.uniform(0, 100), 1_795_000_000_000 + epoch * 1000, epoch)
        for epoch in range(1, 301)
        for key in (*METRICS, "epoch")
    ]
    points += [
        Metric(key, 1.0, 1_795_000_300_000, 300)
        for key in (*FINALS, "train_seconds", "parameters")
    ]
    seconds = {"mirror": 0.0, "log_batch": 0.0}
    for run_dir in run_dirs[1:]:
        began = time.perf_counter()
        mirror.mirror([run_dir])
        seconds["mirror"] += time.perf_counter() - began
        run = plain.create_run(experiment).info.run_id
        began = time.perf_counter()
        for start in range(0, len(points), 1000):
            plain.log_batch(run, metrics=points[start : start + 1000])
        seconds["log_batch"] += time.perf_counter() - began
    for name, spent in seconds.items():
        print(
            f"{name}: {count * len(points) / spent:,.0f} points/s ({count} runs of {len(points)} "
            "points)"
        )
    print(
        "the mirror, runs, params, artifacts and all, at "
        f"{100 * seconds['log_batch'] / seconds['mirror']:.0f} % of log_batch"
    )


def _runs(results: Path, count: int) -> None:
    for number in range(count):
        _finished_run(results / "runs", number, 10)
    environment = {**os.environ, "RM_RESULTS_DIR": str(results), "MLFLOW_TRACKING_URI": ""}
    for what in (f"sync of {count:,} finished runs of 10 epochs", "sync again, nothing new"):
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, str(ROOT / "launch" / "run.py"), "sync"], env=environment, check=True
        )
        print(f"{what}: {time.perf_counter() - began:.2f} s", flush=True)


def _finished_run(runs: Path, number: int, epochs: int) -> Path:
    run_dir = runs / f"{number:012x}"
    run_dir.mkdir(parents=True)
    clock = 1_795_000_000.0 + number
    lines = [{"event": "started", "time": clock, "epochs": epochs}]
    for epoch in range(1, epochs + 1):
        values = {key: random.uniform(0, 100) for key in METRICS}
        lines.append({"event": "epoch", "time": round(clock + epoch, 3), "epoch": epoch, **values})
    metrics = {key: random.uniform(0, 100) for key in FINALS}
    lines.append({"event": "finished", "time": clock + epochs + 1, **metrics})
    _write(run_dir / "journal.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    _write(
        run_dir / "trial.json", json.dumps({"id": run_dir.name, **TRIAL, "seed": number}, indent=1)
    )
    attempt = {"host": "node-7", "device": "cpu", "git_commit": "4f1c2ab9d07e55aa", "git_diff": ""}
    _write(run_dir / "provenance.json", json.dumps([attempt]))
    use = {
        "spec": "table3",
        "profile": None,
        "row": "ResNet-18 · + RM (ours)",
        "label": f"table3 · RM · seed {number}",
    }
    _write(run_dir / "uses.jsonl", json.dumps(use) + "\n")
    _write(
        run_dir / "result.json",
        json.dumps({"metrics": metrics, "train_seconds": 12.5, "parameters": 11_220_132}),
    )
    return run_dir


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
