"""Small real trainings of every head: the committed pictures at 160 px or crops of 64, a network
of a few hundred thousand parameters.
"""

from pathlib import Path
from typing import Any

import torch

from rm.rundir import checkpoint
from rm.rundir.journal import Journal
from rm.train import train
from rm.trainer import Trainer
from rm.trial import parse_trial
from tests.support.trials import ROOT

SAMPLES = ROOT / "tests" / "data"

DETECTORS = ("atss", "faster_rcnn_c4", "gfl", "mask_rcnn", "htc")
SEGMENTERS = ("pspnet", "upernet")
HEADS = (*DETECTORS, *SEGMENTERS)

_NARROW = {
    "atss": {"width": 16, "convolutions": 1},
    "faster_rcnn_c4": {"width": 16, "roi_samples": 16},
    "gfl": {"width": 16, "convolutions": 1},
    "mask_rcnn": {"width": 16, "hidden": 32, "roi_samples": 16},
    "htc": {"width": 16, "hidden": 32, "roi_samples": 16, "semantic": True},
    "pspnet": {"width": 16, "auxiliary_width": 16},
    "upernet": {"width": 16, "auxiliary_width": 16},
}


def values(head: str, /, **sections: Any) -> dict[str, Any]:
    """A trial of two epochs of three or four steps; HTC with its semantic branch."""
    detects = head in DETECTORS
    common: dict[str, Any] = {
        "seed": 0,
        "backbone": {"name": "timm", "model": "test_resnet"},
        "head": {"name": head, **_NARROW[head]},
        "train": {"epochs": 2, "batch_size": 2, "evaluate_every": 2},
    }
    if detects:
        own: dict[str, Any] = {
            "task": {"name": "detection", "frozen_stages": 0},
            "dataset": {"name": "coco", "root": "coco-sample", "short_side": 96, "long_side": 160,
                        "limit": 6, "test_limit": 1 if head == "htc" else 3},
            "optimizer": {"name": "sgd", "lr": 0.01, "weight_decay": 1e-4},
            "schedule": {"name": "step", "milestones": [1], "warmup_steps": 2},
        }  # fmt: skip
    else:
        own = {
            "task": {"name": "segmentation", "steps": 3},
            "dataset": {"name": "ade20k", "root": "ade-sample", "short_side": 64,
                        "long_side": 160, "crop": 64, "test_limit": 1},
            "optimizer": {"name": "adamw", "lr": 1e-4, "weight_decay": 1e-4, "decay": "all"},
            "schedule": {"name": "poly"},
        }  # fmt: skip
    return {**common, **own, **sections}


def run(
    head: str,
    folder: Path,
    stop_before: int | None = None,
    *,
    device: torch.device | str = "cpu",
    **sections: Any,
) -> Trainer:
    """Train in a folder, resuming where it was left; stopped before a step if asked."""
    folder.mkdir(exist_ok=True)
    device = torch.device(device)
    trainer = Trainer(parse_trial(values(head, **sections)), device)
    left = iter(range(10**6 if stop_before is None else stop_before))
    with Journal(folder / "journal.jsonl") as journal:
        saved = checkpoint.load(folder, device)
        try:
            train(trainer, folder, journal, lambda: next(left, None) is None, 1e9, saved)
        finally:
            trainer.close()
    return trainer
