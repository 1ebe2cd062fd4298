"""A network learns by heart what it is shown, so pictures, labels, losses, steps, predictions and
their measure fit together.

ResNet-18 from random weights; a quarter of an hour of one core, most of it UperNet's, so only
where RM_TEST_OVERFIT is set: `make overfit`.
"""

import json
import os
import shutil

import pytest
import torch

from rm.datasets import load
from rm.dense import ade
from rm.trainer import Trainer
from rm.trial import parse_trial
from tests.support.rm.dense import SAMPLES, values

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif("RM_TEST_OVERFIT" not in os.environ, reason="`make overfit` runs it"),
]


@pytest.fixture
def four_pictures(tmp_path, monkeypatch):
    """COCO's layout with the same four pictures to train on and to be tested on."""
    sample, place = SAMPLES / "coco-sample", tmp_path / "coco-sample"
    data = json.loads((sample / "annotations" / "instances_train2017.json").read_text())
    data["images"] = data["images"][:4]
    shown = {image["id"] for image in data["images"]}
    data["annotations"] = [each for each in data["annotations"] if each["image_id"] in shown]
    (place / "annotations").mkdir(parents=True)
    for split in ("train2017", "val2017"):
        (place / "annotations" / f"instances_{split}.json").write_text(json.dumps(data))
        shutil.copytree(sample / "train2017", place / split)
    monkeypatch.setenv("RM_DATA_DIR", str(tmp_path))
    load.__globals__["_whole"].cache_clear()
    yield
    load.__globals__["_whole"].cache_clear()


def learned(head, steps, /, **sections):
    """Metrics after so many steps of AdamW."""
    common = {
        "backbone": {"name": "timm", "model": "resnet18"},
        "optimizer": {"name": "adamw", "lr": 1e-3, "weight_decay": 1e-4},
    }
    trial = parse_trial(values(head, **{**common, **sections}))
    trainer = Trainer(trial, torch.device("cpu"))
    for _ in range(steps):
        trainer.train_step()
    metrics = trainer.evaluate()
    trainer.close()
    print(head, {name: round(value, 1) for name, value in metrics.items()})
    return metrics


def test_atss_learns_four_pictures(four_pictures):
    metrics = learned(
        "atss",
        50,
        head={"name": "atss", "width": 64, "convolutions": 2},
        task={"name": "detection", "frozen_stages": 0, "frozen_norms": False, "iterations": 50},
        dataset={"name": "coco", "root": "coco-sample", "short_side": 120, "long_side": 160},
        train={"epochs": 6, "batch_size": 4},
        schedule={"name": "cosine", "warmup_epochs": 1},
    )
    assert metrics["test_box_ap"] > 50


@pytest.fixture
def three_pictures(monkeypatch):
    """ADE20K's layout with the same three pictures to train on and to be tested on; as they are,
    but mirrored: sizes, crops and colours that are drawn anew take thousands of steps to learn.
    """
    monkeypatch.setenv("RM_DATA_DIR", str(SAMPLES))
    monkeypatch.setattr(ade, "_LEAST_SCALE", 1.0)
    monkeypatch.setattr(ade, "_MOST_SCALE", 1.0)
    monkeypatch.setattr(ade, "distort", lambda image, draw: image)


def test_upernet_learns_three_pictures(three_pictures):
    """Classes of some sixty pixels are the last that it learns."""
    steps = 600
    metrics = learned(
        "upernet",
        steps,
        head={"name": "upernet", "width": 64, "auxiliary_width": 32, "dropout": 0.0},
        task={"name": "segmentation", "steps": steps},
        dataset={
            "name": "ade20k",
            "root": "ade-sample",
            "short_side": 192,
            "long_side": 768,
            "crop": 192,
        },
        train={"epochs": 1, "batch_size": 3},
        optimizer={"name": "adamw", "lr": 2e-3, "weight_decay": 1e-4},
        schedule={"name": "cosine"},
    )
    assert metrics["test_miou"] > 80
