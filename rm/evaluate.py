"""Evaluates somebody's weights of a detector or a segmentation network, without a trial: those
that a run left (`weights.pt`) or a checkpoint of mmdet or mmseg, whose names are the same.

python -m rm.evaluate --task detection --head atss --weights FILE --data FOLDER
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from rm import registry
from rm.datasets import DataError, Dataset, data_dir
from rm.distributed import default_device, named_device
from rm.rundir.weights import read_file
from rm.tasks._dense import with_pictures
from rm.trainer import Trainer
from rm.trial import Trial, TrialError, parse_trial

DATASETS = {"detection": "coco", "segmentation": "ade20k"}


def evaluate(
    values: Mapping[str, Any],
    weights: Path,
    folder: Path,
    device: torch.device,
    pictures: int | None = None,
) -> dict[str, float]:
    """Metric -> value, on the validation split alone.

    values    sections task, backbone and head of a trial
    folder    COCO 2017 or ADE20K: nothing of its training split is needed
    pictures  only so many of them
    """
    trial = _trial(values)
    init = read_file(weights, "model")
    data = _validation(trial, folder)
    task: Any = registry.load("task", trial.task)
    task = task(
        trial, device, None, init, data=with_pictures(data, pictures), **trial.options("task")
    )
    trainer = Trainer(trial, device, task=task)
    try:
        return {name.removeprefix("test_"): v for name, v in trainer.evaluate().items()}
    finally:
        trainer.close()


def _trial(values: Mapping[str, Any]) -> Trial:
    """With what a training would need and an evaluation does not."""
    return parse_trial(
        {
            **values,
            "seed": 0,
            "dataset": {"name": DATASETS[values["task"]["name"]]},
            "train": {"epochs": 1, "batch_size": 1},
            "optimizer": {"name": "sgd", "lr": 0.01},
            "schedule": {"name": "constant"},
        }
    )


def _validation(trial: Trial, folder: Path) -> Dataset:
    options = trial.options("dataset")
    sides = options["short_side"], options["long_side"]
    if trial.task == "detection":
        from rm.dense.coco import CATEGORIES, coco_split

        split, classes = coco_split(folder, "val", *sides), len(CATEGORIES)
    else:
        from rm.dense.ade import CLASSES, scene_split

        split, classes = scene_split(folder, "validation", *sides, options["crop"]), CLASSES
    return Dataset(split, split, classes, (), (), 0, True)


def main(arguments: list[str] | None = None) -> int:
    """The command `python -m rm.evaluate`; exit status 2 for bad input."""
    args = parser("python -m rm.evaluate").parse_args(arguments)
    values: dict[str, dict[str, Any]] = {
        # What is frozen matters in training alone, and not every backbone can be.
        "task": {"name": args.task, **({"frozen_stages": 0} if args.task == "detection" else {})},
        "backbone": {"name": args.backbone},
        "head": {"name": args.head},
    }
    try:
        for setting in args.set:
            key, _, text = setting.partition("=")
            section, _, option = key.partition(".")
            if section not in values or not option or not text:
                raise TrialError(
                    f"--set {setting}: expected SECTION.OPTION=VALUE of {list(values)}"
                )
            values[section][option] = _value(text)
        root = registry.entry("dataset", DATASETS[args.task]).options["root"].default
        folder, device = args.data or data_dir() / root, args.device or default_device()
        found = evaluate(values, args.weights, folder, device, args.pictures)
    except (TrialError, DataError) as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps({name: round(value, 4) for name, value in found.items()}))
    return 0


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def parser(program: str) -> argparse.ArgumentParser:
    """The command's arguments."""
    found = argparse.ArgumentParser(prog=program, description="Evaluate weights.")
    found.add_argument("--task", choices=DATASETS, required=True)
    found.add_argument("--head", required=True, help="atss, gfl, mask_rcnn, htc, pspnet, upernet")
    found.add_argument(
        "--backbone", default="imagenet_resnet50", help="default: imagenet_resnet50"
    )
    found.add_argument("--weights", type=Path, required=True, metavar="FILE")
    found.add_argument("--data", type=Path, metavar="FOLDER", help="default: in $RM_DATA_DIR")
    found.add_argument("--pictures", type=int, help="only so many (default: all)")
    found.add_argument("--device", type=named_device, help="default: a GPU if there is one")
    found.add_argument(
        "--set", action="append", default=[], metavar="SECTION.OPTION=VALUE",
        help="an option of backbone or head, such as backbone.output_stride=8 (PSPNet)",
    )  # fmt: skip
    return found


if __name__ == "__main__":
    sys.exit(main())
