"""A training step of detection and segmentation at full size, on the device at hand: what Tables 7
to 9 would take there.

    python -m benchmarks.dense_scale [--heads atss mask_rcnn upernet] [--precisions fp32 bf16]
                                     [--batch 16] [--steps 5] [--device cuda] [--size 800]

The committed pictures, enlarged to 800 x 1333 (COCO) or in crops of 512 (ADE20K) as the tables
have them, ResNet-50, the tables' heads. The steps repeat one batch, so that reading is not in
them; how many pictures all readers together make ready is measured apart, and the slower of the
two is what a training has. GPU-hours are of the table's schedule at that pace.
"""

import argparse
import itertools
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rm.trainer import Trainer
from rm.trial import parse_trial

DATA = Path(__file__).resolve().parents[1] / "tests" / "data"
SEGMENTERS = ("pspnet", "upernet")
HEADS = ("atss", "gfl", "mask_rcnn", "htc", *SEGMENTERS)
PICTURES = {True: 80_000 * 16, False: 12 * 117_266}
"""Shown by the schedule of a segmentation; of a detection."""
WARM_UP = 2
READ_BATCHES = 96


def trial(head: str, precision: str, batch: int, size: int) -> Any:
    segments = head in SEGMENTERS
    dataset: dict[str, Any] = {"name": "coco", "root": "coco-sample"}
    dataset |= {"short_side": size, "long_side": size * 1333 // 800}
    task: dict[str, Any] = {"name": "detection"}
    schedule: dict[str, Any] = {"name": "step", "milestones": [8, 11], "warmup_steps": 500}
    if segments:
        crop = size * 512 // 800
        dataset = {"name": "ade20k", "root": "ade-sample", "short_side": crop}
        dataset |= {"long_side": 4 * crop, "crop": crop}
        task = {"name": "segmentation", "steps": 100}
        schedule = {"name": "poly"}
    return parse_trial(
        {
            "seed": 0,
            "task": task,
            "dataset": dataset,
            "backbone": {"name": "imagenet_resnet50"},
            "head": {"name": head},
            "train": {"epochs": 100, "batch_size": batch, "precision": precision},
            "optimizer": {"name": "sgd", "lr": 1e-4, "weight_decay": 1e-4},
            "schedule": schedule,
        }
    )


def measure(head: str, precision: str, args: argparse.Namespace) -> None:
    """Print a line of the table."""
    device = torch.device(args.device)
    trainer = Trainer(trial(head, precision, args.batch, args.size), device)
    read = _read(trainer)
    batch = next(trainer.task.batches(trainer.epoch_plan, 0))
    trainer.batches.restart(lambda: itertools.repeat(batch))
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for _ in range(WARM_UP):
        trainer.train_step()
    _wait(device)
    began = time.perf_counter()
    for _ in range(args.steps):
        trainer.train_step()
    _wait(device)
    step = (time.perf_counter() - began) / args.steps
    peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else float("nan")
    hours = PICTURES[head in SEGMENTERS] / len(batch) * step / 3600
    print(
        f"| {head} | {precision} | {1000 * step:.0f} ms | {len(batch) / step:.1f} | {read:.1f} | "
        f"{peak:.1f} GiB | {hours:.1f} |",
        flush=True,
    )
    trainer.close()


def _read(trainer: Trainer) -> float:
    """Pictures a second that all readers together make ready, over many batches at once: what they
    hold ready is not to count, nor how long one of them takes for one batch.
    """
    plan: Any = trainer.epoch_plan
    many = -(-READ_BATCHES // len(plan.pictures))
    plan = plan._replace(
        pictures=np.tile(plan.pictures, (many, 1)), seeds=np.tile(plan.seeds, (many, 1))
    )
    batches = trainer.task.batches(plan, 0)
    next(batches)  # by then the readers are there
    began, count = time.perf_counter(), 0
    for batch in batches:
        count += len(batch)
    return count / (time.perf_counter() - began)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--heads", nargs="+", choices=HEADS, default=["atss", "mask_rcnn", "upernet"]
    )
    parser.add_argument(
        "--precisions", nargs="+", choices=["fp32", "bf16", "fp16"], default=["fp32", "bf16"]
    )
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--size", type=int, default=800, help="the short side of COCO's pictures")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    os.environ["RM_DATA_DIR"] = str(DATA)
    print(torch.cuda.get_device_name() if args.device.startswith("cuda") else args.device)
    print("| head | precision | a step | pictures/s | pictures/s read | memory | hours in all |")
    print("|---|---|---|---|---|---|---|")
    for head in args.heads:
        for precision in args.precisions:
            measure(head, precision, args)


if __name__ == "__main__":
    main()
