"""What a contrastive training step costs against its bare arithmetic: the passes through q and k
that it has to make, without loss, queue, momentum and optimizer.

    python -m benchmarks.contrastive_step [--backbone resnet8] [--batch 64] [--rounds 5]

Counted in forward passes of one view, backward ones as two: MoCo 4 (k forward, q forward and
backward), with mixing 7, AMix-I 10 (k forward for both views, forward and backward by the images
for the block's). Bare and whole steps alternate in one process; medians, and their ratio a round;
on a CPU of the processor's time. Views are made in both; pictures are random, 32 px, 3 channels.
"""

import argparse
import functools
import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.amix import seconds
from rm.datasets import Dataset, InMemorySplit
from rm.distributed import default_device
from rm.tasks.contrastive import Contrastive
from rm.trainer import Trainer
from rm.trial import parse_trial

METHODS = {"baseline": (1, 1, False), "mixup": (2, 1, False), "amix_i": (2, 2, True)}
"""Method -> passes through q with their backward ones, passes through k, and whether another one
through k goes back to its images.
"""


def trainer_of(method: str, args: argparse.Namespace, device: torch.device) -> Trainer:
    draw = torch.Generator().manual_seed(0)
    shape = (4 * args.batch, 32, 32, 3)
    images = torch.randint(0, 256, shape, generator=draw, dtype=torch.uint8)
    split = InMemorySplit(images, torch.arange(len(images)) % 10)
    data = Dataset(split, split, 10, (0.5,) * 3, (0.25,) * 3, 0, True)
    width = {"width": args.width} if args.backbone == "resnet8" else {}
    task = {"name": "contrastive", "queue": 16 * args.batch}
    trial = parse_trial(
        {
            "seed": 0,
            "task": task,
            "dataset": {"name": "cifar10"},
            "backbone": {"name": args.backbone, **width},
            "method": {"name": method},
            "train": {"epochs": 1000, "batch_size": args.batch},
            "optimizer": {"name": "sgd", "lr": 0.03},
            "schedule": {"name": "constant"},
        }
    )
    own = Contrastive(trial, device, data=data, queue=16 * args.batch)
    return Trainer(trial, device, task=own)


def step(trainer: Trainer) -> None:
    if trainer.step >= trainer.steps_per_epoch:
        trainer.epoch += 1
        trainer.start_epoch()
    trainer.train_step()


def bare(trainer: Trainer, method: str) -> None:
    """The passes alone, on two views of a batch that are made as a step's are."""
    passes, keys, through = METHODS[method]
    task: Any = trainer.task
    views = next(task.batches(trainer.epoch_plan, 0))
    for _ in range(keys):
        with torch.no_grad():
            task.network.project(views.key)
    found = [task.network.query(views.query).sum() for _ in range(passes)]
    loss: Tensor = torch.stack(found).sum()
    if through:
        loss = loss + task.network.project(views.query.clone().requires_grad_()).sum()
    loss.backward()
    task.network.zero_grad(set_to_none=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", default="resnet8")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    device = default_device()
    print("| method | bare passes, ms | whole step, ms | ratio |\n|---|---|---|---|")
    for method in METHODS:
        works = works_of(method, trainer_of(method, args, device))
        for work in works:
            work()
        pairs = [[seconds(work, device) for work in works] for _ in range(args.rounds)]
        plain, whole = (1000 * statistics.median(each) for each in zip(*pairs, strict=True))
        ratio = statistics.median(b / a for a, b in pairs)
        print(f"| {method} | {plain:,.0f} | {whole:,.0f} | {ratio:.2f} |", flush=True)


def works_of(method: str, trainer: Trainer) -> tuple[Callable[[], None], Callable[[], None]]:
    return functools.partial(bare, trainer, method), functools.partial(step, trainer)


if __name__ == "__main__":
    main()
