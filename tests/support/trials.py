"""Small real trainings that the tests share: handwritten digits at 16 px, a ResNet of a few
thousand parameters.
"""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

PATIENCE = 900.0
"""Seconds after which something hangs. Never a measure of speed: the machine may be busy."""

TINY: dict[str, Any] = {
    "seed": 0,
    "dataset": {"name": "digits", "size": 16, "limit": 70, "test_limit": 60},
    "backbone": {"name": "resnet8", "width": 8},
    "method": {"name": "recursive_mix", "alpha": 0.5, "omega": 0.5},
    "train": {"epochs": 3, "batch_size": 16},
    "optimizer": {"name": "sgd", "lr": 0.05, "weight_decay": 5e-4},
    "schedule": {"name": "cosine", "warmup_epochs": 1},
}
"""A trial of 15 steps in well under a second."""


def contrastive(trial: dict[str, Any], **options: Any) -> dict[str, Any]:
    """A trial as pre-training without labels: its queue wraps in the second epoch."""
    task = {"name": "contrastive", "queue": 80, "hidden": 16, "dim": 8, "momentum": 0.9}
    task |= {"colours": False, "neighbours": 5, **options}
    return {**trial, "task": task, "method": {"name": "baseline"}}


def write_trial(folder: Path, trial: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "trial.json"
    path.write_text(json.dumps(trial), encoding="utf-8")
    return path


def deterministic(run_dir: Path) -> list[dict[str, Any]]:
    """What must be equal, bit for bit, between two runs of a trial: every epoch's numbers but the
    timings.
    """
    events = [
        json.loads(line)
        for line in (run_dir / "journal.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    epochs = {event["epoch"]: event for event in events if event["event"] == "epoch"}
    timings = {"event", "time", "epoch_seconds", "images_per_second", "peak_memory_mib"}
    return [
        {k: v for k, v in epochs[epoch].items() if k not in timings} for epoch in sorted(epochs)
    ]
