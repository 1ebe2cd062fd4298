"""How many pictures a second become two views: ours, batched on the device, and torchvision v2's
in a DataLoader, picture by picture, with the same recipe (MoCo v2's).

    python -m benchmarks.views [--side 96] [--batch 64] [--workers 2] [--device cpu]
        [--processor]

Both start from uint8 pictures in memory and end with two normalised float batches on the device.
The first batches are not counted: processes start, and memory is found.
"""

import argparse
import os
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from rm.datasets import Dataset as Pictures
from rm.datasets import InMemorySplit
from rm.input.image_files import MEAN, STD
from rm.input.views import Recipe, Views, open_views

WARMUP = 2


class TorchvisionViews(Dataset[tuple[Tensor, Tensor]]):
    """The usual two-crops data set: each view drawn by torchvision, on float pixels as ours."""

    def __init__(self, pictures: Tensor, side: int, recipe: Recipe) -> None:
        self.pictures = pictures
        jitter, blur = v2.ColorJitter(*recipe.jitter), v2.GaussianBlur(13, recipe.blur_sigma)
        self.transform = v2.Compose(
            [
                v2.RandomResizedCrop(side, (recipe.smallest_area, 1.0), antialias=True),
                v2.RandomHorizontalFlip(recipe.flip_probability),
                v2.ToDtype(torch.float32, scale=True),
                v2.RandomApply([jitter], recipe.jitter_probability),
                v2.RandomGrayscale(recipe.grey_probability),
                v2.RandomApply([blur], recipe.blur_probability),
                v2.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor]:
        picture = self.pictures[position]
        return self.transform(picture), self.transform(picture)


def ours(views: Views, batch: int) -> Iterator[Any]:
    """Batches without end."""
    generator = np.random.default_rng(0)
    starts = range(0, len(views) - batch + 1, batch)
    while True:
        plan = views.sample_epoch(generator)
        yield from views.batches(plan, [slice(start, start + batch) for start in starts])


def theirs(
    data: TorchvisionViews, batch: int, workers: int, device: torch.device
) -> Iterator[Any]:
    loader = DataLoader(
        data, batch, shuffle=True, drop_last=True, num_workers=workers,
        persistent_workers=workers > 0, pin_memory=device.type == "cuda",
    )  # fmt: skip
    while True:
        for views in loader:
            yield [view.to(device, non_blocking=True) for view in views]


def pictures_per_second(
    batches: Iterable[Any],
    count: int,
    batch: int,
    device: torch.device,
    clock: Callable[[], float],
) -> float:
    """Each picture as two views."""
    stream = iter(batches)
    for _ in islice(stream, WARMUP):
        pass
    _wait(device)
    began = clock()
    for _ in islice(stream, count):
        pass
    _wait(device)
    return count * batch / (clock() - began)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def pictures(count: int, side: int) -> Pictures:
    """Smooth noise, as a data set in memory."""
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.random((count, 3, 8, 8), dtype=np.float32))
    smooth = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")
    stored = (255 * smooth).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    split = InMemorySplit(stored, torch.zeros(count, dtype=torch.int64))
    return Pictures(split, split, 10, MEAN, STD, padding=0, flip=True)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--side", type=int, default=96, help="pixels (default: 96, STL-10's)")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--batches", type=int, default=8, help="that are counted (default: 8)")
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--workers", type=int, default=cores, help="of the DataLoader")
    parser.add_argument("--threads", type=int, default=cores, help="of ours on the CPU")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--processor",
        action="store_true",
        help="count this process's processor time, which others on the machine do not stretch; "
        "torchvision's views are made in it, too",
    )
    args = parser.parse_args()
    workers = 0 if args.processor else args.workers
    clock = time.process_time if args.processor else time.perf_counter
    device, recipe = torch.device(args.device), Recipe(args.side)
    torch.set_num_threads(args.threads)
    data = pictures(max(256, 4 * args.batch), args.side)
    views = open_views(data, recipe, device, 1)
    stored: Any = data.train
    usual = TorchvisionViews(stored.images.permute(0, 3, 1, 2).contiguous(), args.side, recipe)
    runs: dict[str, Callable[[], Iterator[Any]]] = {
        "ours, batched on the device": lambda: ours(views, args.batch),
        f"torchvision v2, DataLoader with {workers} workers": lambda: theirs(
            usual, args.batch, workers, device
        ),
    }
    rates = {
        name: pictures_per_second(run(), args.batches, args.batch, device, clock)
        for name, run in runs.items()
    }
    print(f"{args.side} px, batches of {args.batch}, {device}, {args.threads} threads")
    for name, rate in rates.items():
        print(f"{name:50}{rate:10,.0f} pictures/s as two views")
    mine, usual_rate = rates.values()
    print(f"{'ratio':50}{mine / usual_rate:10.2f}")


if __name__ == "__main__":
    main()
