"""Images a second through a whole epoch, data included: ours against loops as people write them,
alternating in one process.

    python -m benchmarks.epoch [--backbone resnet18] [--batch 128] [--steps 20] [--rounds 3]
    [--fp16]

    ours RM, ours CutMix    this project's loop: bf16, channels last, images on the device
    plain RM                the loop in the style of the authors' code (plain.py): a DataLoader
    with PIL crops, NCHW, fp32 or fp16
    v2 CutMix               the same loop with torchvision.transforms.v2.CutMix in the DataLoader's
    collate function
    timm CutMix             the same loop with timm.data.Mixup (its CutMix alone) on the device's
    batch

A turn is --steps steps; 391 is an epoch of CIFAR-100 at batch 128. The first round warms up and
does not count. While others have their turn, a DataLoader reads ahead: two batches a process that
its own turn does not wait for.
"""

import argparse
import os
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from timm.data import Mixup
from timm.loss import SoftTargetCrossEntropy
from torch import Tensor, nn
from torch.utils.data import DataLoader, default_collate
from torchvision.transforms import v2

from benchmarks.plain import PlainRecursiveMix, cifar_data, cifar_loader
from benchmarks.step import RM, alternate, our_run
from rm import registry
from rm.datasets import data_dir

CLASSES = 100
CUTMIX = {"name": "cutmix", "alpha": 1.0, "probability": 1.0}


class PlainLoop:
    """SGD on soft targets, fp32 or fp16 with a scaler; the loss is read every step, as a progress
    line does.
    """

    def __init__(self, model: nn.Module, device: torch.device, fp16: bool) -> None:
        self.model, self.device = model.to(device).train(), device
        self.optimizer = torch.optim.SGD(
            model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4
        )
        self.scaler = torch.amp.GradScaler(device.type, enabled=fp16)
        self.autocast = torch.autocast(device.type, torch.float16, enabled=fp16)
        self.criterion = SoftTargetCrossEntropy()

    def step(self, images: Tensor, targets: Tensor) -> float:
        with self.autocast:
            logits = self.model(images)
        loss: Tensor = self.criterion(logits.float(), targets)
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.item()


_MIX = v2.CutMix(num_classes=CLASSES)


def _mix(items: list[Any]) -> Any:
    return _MIX(*default_collate(items))


def v2_loader(folder: Path, batch: int, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Mixed images and soft targets, mixed by the loader's processes, as torchvision's
    documentation shows it.
    """
    loader: DataLoader[Any] = DataLoader(
        cifar_data(folder),
        batch,
        shuffle=True,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        collate_fn=_mix,
    )
    while True:
        yield from loader


def contestants(args: argparse.Namespace, device: torch.device) -> dict[str, Callable[[], object]]:
    """Name -> a turn of so many steps."""

    def network() -> nn.Module:
        torch.manual_seed(0)
        return registry.load("backbone", args.backbone)(CLASSES, 3)

    plain = PlainRecursiveMix(network(), CLASSES, device, fp16=args.fp16)
    plain_data = cifar_loader(data_dir(), args.batch, args.workers)
    with_v2, v2_data = (
        PlainLoop(network(), device, args.fp16),
        v2_loader(data_dir(), args.batch, args.workers),
    )
    with_timm, timm_data = (
        PlainLoop(network(), device, args.fp16),
        cifar_loader(data_dir(), args.batch, args.workers),
    )
    mixup = Mixup(mixup_alpha=0.0, cutmix_alpha=1.0, num_classes=CLASSES, label_smoothing=0.0)

    def v2_step() -> None:
        images, targets = next(v2_data)
        with_v2.step(images.to(device, non_blocking=True), targets.to(device, non_blocking=True))

    def timm_step() -> None:
        images, labels = next(timm_data)
        while len(images) % 2:  # timm's Mixup takes even batches alone
            images, labels = next(timm_data)
        images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        with_timm.step(*mixup(images, labels))

    ours = {
        name: our_run(args.backbone, args.batch, method, device)
        for name, method in (("RM", RM), ("CutMix", CUTMIX))
    }

    def our_step(name: str) -> None:
        run = ours[name]
        if run.step >= run.steps_per_epoch:
            run.epoch += 1
            run.start_epoch()
        run.train_step()

    steps: dict[str, Callable[[], object]] = {
        "ours RM": lambda: our_step("RM"),
        "plain RM": lambda: plain.step(*next(plain_data)),
        "ours CutMix": lambda: our_step("CutMix"),
        "v2 CutMix": v2_step,
        "timm CutMix": timm_step,
    }

    def turn(step: Callable[[], object]) -> Callable[[], object]:
        return lambda: [step() for _ in range(args.steps)]

    return {name: turn(step) for name, step in steps.items() if not args.only or name in args.only}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument(
        "--steps", type=int, default=20, help="of a turn; 391 is an epoch of batch 128"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--workers", type=int, default=min(8, os.cpu_count() or 1), help="of each DataLoader"
    )
    parser.add_argument(
        "--fp16",
        action="store_true",
        help="their loops with fp16 AMP, as the authors ran theirs on GPUs",
    )
    parser.add_argument(
        "--only", action="append", metavar="NAME", help="only this contestant, and others named so"
    )
    parser.add_argument(
        "--device", type=torch.device, default="cuda" if torch.cuda.is_available() else "cpu"
    )
    args = parser.parse_args()
    device = torch.device(args.device)
    print(
        f"{args.backbone}, batch {args.batch}, {device}, torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads"
    )
    taken = alternate(contestants(args, device), args.rounds, device, warm_up=1)
    speeds = {
        n: args.steps * args.batch / statistics.median(values) for n, values in taken.items()
    }
    for name, speed in speeds.items():
        against = [
            other
            for other in speeds
            if not other.startswith("ours") and other.split()[-1] == name.split()[-1]
        ]
        ratios = (
            ", ".join(f"{speed / speeds[other]:.2f}x {other}" for other in against)
            if name.startswith("ours")
            else ""
        )
        spread = [
            args.steps * args.batch / value for value in (max(taken[name]), min(taken[name]))
        ]
        print(f"{name:14}{speed:10,.0f} images/s ({spread[0]:,.0f} to {spread[1]:,.0f})  {ratios}")
    print(
        f"load of this machine over the last minute: {os.getloadavg()[0]:.1f} on {os.cpu_count()} "
        "cores"
    )


if __name__ == "__main__":
    main()
