"""Small real trainings of every head: the committed pictures at 160 px or crops of 64, a network
of a few hundred thousand parameters.
"""

from typing import Any

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
