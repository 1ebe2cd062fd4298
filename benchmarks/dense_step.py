"""A training step of detection and segmentation: our loop against mmengine's runner, on the same
pictures, reading included, in alternating blocks of one process.

    python -m benchmarks.dense_step [--heads atss mask_rcnn upernet] [--blocks 3] [--steps 8]
                                    [--processor]
    python -m benchmarks.dense_step --starts 7 [--heads ...]

Both train the stock network with ResNet-50 on the committed pictures (COCO at 320 x 192, ADE20K's
crops of 128), two a step, read by one other process. mmengine runs its own loop with its default
hooks, data sets and transforms. Also the start of a trial in a process that has had one.

--starts measures those alone, of any heads, as a launched trial starts: from a backbone's weights,
with torch's threads, with freed memory kept.

--processor counts processor time instead of the clock's, and the trainer reads its pictures
itself, so that they are in it: for a machine that does other work too.
"""

import argparse
import contextlib
import importlib.util
import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from rm import registry
from rm.memory import keep_freed_memory
from rm.rundir.weights import InitialWeights
from rm.trainer import Trainer
from rm.trial import parse_trial

SAMPLES = Path(__file__).resolve().parents[1] / "tests" / "data"
STOCK = {
    "atss": ("mmdet", "atss/atss_r50_fpn_1x_coco.py"),
    "mask_rcnn": ("mmdet", "mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py"),
    "upernet": ("mmseg", "upernet/upernet_r50_4xb4-80k_ade20k-512x512.py"),
}
Clock = Callable[[], float]
WARMUP = 2
"""Steps of a block that are not counted: the first pictures are read, memory is allocated."""


def trial(head: str, steps: int) -> Any:
    if registry.entry("head", head).task == "detection":
        own: dict[str, Any] = {
            "task": {"name": "detection"},
            "dataset": {
                "name": "coco",
                "root": "coco-sample",
                "short_side": 192,
                "long_side": 320,
            },
            "schedule": {"name": "step", "milestones": [8, 11], "warmup_steps": 500},
            "optimizer": {"name": "sgd", "lr": 1e-3, "weight_decay": 1e-4},
        }
    else:
        own = {
            "task": {"name": "segmentation", "steps": steps},
            "dataset": {"name": "ade20k", "root": "ade-sample", "short_side": 128,
                        "long_side": 512, "crop": 128},
            "schedule": {"name": "poly"},
            "optimizer": {"name": "sgd", "lr": 1e-3, "weight_decay": 1e-4},
        }  # fmt: skip
    common = {
        "seed": 0,
        "backbone": {"name": "imagenet_resnet50"},
        "head": {"name": head},
        "train": {"epochs": 100, "batch_size": 2, "channels_last": False},
    }
    return parse_trial({**common, **own})


def ours(head: str, steps: int, clock: Clock) -> tuple[list[float], float]:
    """Seconds of each step, and of the start."""
    began = clock()
    trainer = Trainer(trial(head, steps), torch.device("cpu"))
    start = clock() - began
    seconds = []
    for _ in range(steps):
        began = clock()
        if trainer.step == trainer.steps_per_epoch:
            trainer.epoch += 1
            trainer.start_epoch()
        trainer.train_step()
        seconds.append(clock() - began)
    trainer.close()
    return seconds[WARMUP:], start


def theirs(head: str, steps: int, clock: Clock, folder: str) -> list[float]:
    """Seconds of each step of mmengine's runner; it keeps to the first `folder` it was given."""
    from mmengine.hooks import Hook
    from mmengine.runner import Runner

    ends: list[float] = []

    class Ends(Hook):
        def after_train_iter(self, *args: Any, **options: Any) -> None:
            ends.append(clock())

    config = _config(head, steps, folder, readers=clock is time.perf_counter)
    with contextlib.redirect_stdout(sys.stderr):
        runner = Runner.from_cfg(config)
        runner.register_hook(Ends(), priority="LOWEST")
        runner.train()
    lengths = [end - begin for begin, end in itertools.pairwise(ends)]
    return lengths[WARMUP - 1 :]  # the first end has no begin


def _config(head: str, steps: int, folder: str, readers: bool) -> Any:
    from mmengine import Config

    package, file = STOCK[head]
    origin = importlib.util.find_spec(package)
    place = Path(str(origin and origin.origin)).parent / ".mim" / "configs"
    config = Config.fromfile(place / file)
    config.model.backbone.pop("init_cfg", None)
    loader = config.train_dataloader
    loader.batch_size, loader.num_workers, loader.persistent_workers = 2, int(readers), readers
    pipeline = loader.dataset.pipeline
    if package == "mmdet":
        loader.dataset.data_root = f"{SAMPLES}/coco-sample/"
        next(s for s in pipeline if s.type == "Resize").scale = (320, 192)
        loader.sampler = {"type": "InfiniteSampler"}  # batches of one kind, as ours
    else:
        loader.dataset.data_root = f"{SAMPLES}/ade-sample/"
        next(s for s in pipeline if s.type == "RandomResize").scale = (512, 128)
        next(s for s in pipeline if s.type == "RandomCrop").crop_size = (128, 128)
        config.model.pretrained = None
        config.model.backbone.update(type="ResNet", norm_cfg={"type": "BN"})
        for part in ("decode_head", "auxiliary_head"):
            config.model[part].norm_cfg = {"type": "BN", "requires_grad": True}
        config.model.data_preprocessor.size = (128, 128)
    config.train_cfg = {"type": "IterBasedTrainLoop", "max_iters": steps, "val_interval": 10**9}
    config.optim_wrapper = {
        "type": "OptimWrapper",
        "optimizer": {"type": "SGD", "lr": 1e-3, "momentum": 0.9, "weight_decay": 1e-4},
    }
    config.default_hooks.checkpoint = {
        "type": "CheckpointHook",
        "interval": 10**9,
        "save_last": False,
    }
    for key in ("val_cfg", "val_dataloader", "val_evaluator", "test_cfg", "test_dataloader",
                "test_evaluator", "auto_scale_lr", "param_scheduler"):  # fmt: skip
        config[key] = None
    return Config({**config.to_dict(), "work_dir": folder, "log_level": "ERROR"})


def compare(head: str, blocks: int, steps: int, clock: Clock, folder: str) -> None:
    """Print a line of the table."""
    ours(head, WARMUP + 1, clock)  # imports
    mine: list[float] = []
    other: list[float] = []
    starts = []
    for _ in range(blocks):
        seconds, start = ours(head, steps, clock)
        mine += seconds
        starts.append(start)
        other += theirs(head, steps, clock, folder)
    a, b = statistics.median(mine), statistics.median(other)
    start = statistics.median(starts)
    print(f"| {head} | {a:.2f} s | {b:.2f} s | {a / b:.2f} | {start:.2f} s |", flush=True)


def show_starts(heads: list[str], count: int) -> None:
    """Print a table of them."""
    keep_freed_memory()
    weights = registry.load("backbone", "imagenet_resnet50")(1, 3).plain_state_dict()
    init = InitialWeights(weights, "backbone", Path("weights.pt"), "0" * 64)
    print(f"{torch.get_num_threads()} threads\n")
    print("| head | start after the first: least | median | most |")
    print("|---|---|---|---|")
    for head in heads:
        seconds = []
        for _ in range(count + 1):
            began = time.perf_counter()
            trainer = Trainer(trial(head, 1), torch.device("cpu"), init=init)
            seconds.append(time.perf_counter() - began)
            trainer.close()
            del trainer
        least, middle, most = min(seconds[1:]), statistics.median(seconds[1:]), max(seconds[1:])
        print(f"| {head} | {least:.2f} s | {middle:.2f} s | {most:.2f} s |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    every = list(registry.entries("head"))
    parser.add_argument("--heads", nargs="+", choices=every, help="only these")
    parser.add_argument("--blocks", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8, help="of a block, two of them uncounted")
    parser.add_argument("--processor", action="store_true", help="count processor time")
    parser.add_argument("--starts", type=int, metavar="N", help="of each head, that many")
    args = parser.parse_args()
    clock = time.process_time if args.processor else time.perf_counter
    os.environ["RM_DATA_DIR"] = str(SAMPLES)
    os.environ["RM_LOADER_WORKERS"] = "0" if args.processor else "1"
    if args.starts:
        show_starts(args.heads or every, args.starts)
        return
    if without := set(args.heads or ()) - set(STOCK):
        parser.error(f"steps are compared of {', '.join(STOCK)}, not of {', '.join(without)}")
    torch.set_num_threads(1)
    print("| head | our step | mmengine's step | ratio of medians | start after the first |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for head in args.heads or STOCK:
            compare(head, args.blocks, args.steps, clock, folder)


if __name__ == "__main__":
    main()
