"""Two views of each picture of a batch, made on the device: MoCo v2's augmentation (Chen et al.,
2020) by the operations of `view_ops`, without a loop over pictures.

All that an epoch draws is drawn before it begins, with one generator, so that a resumed run sees
the same views whatever the step. Pictures in memory lie on the device. Those in files are decoded,
cropped and mirrored by the reading processes, each from its own seed; colours and blur follow on
the device. Pixels are floating point all the way: nothing is rounded to 8 bits between the steps.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rm.datasets import DataError, Dataset, DiskSplit, InMemorySplit, Split
from rm.input import view_ops
from rm.input.device_images import DeviceImages, Images, Normalise, draw_order
from rm.input.stream import ReadingPool, StreamedImages
from rm.input.view_draws import ASPECTS, Draws, draw_view
from rm.input.view_draws import Recipe as Recipe


class TwoViews(NamedTuple):
    """query, key  (B, C, S, S) float32, normalised, stored channels last
    place          (B,) int64, which picture of the split each row shows
    """

    query: Tensor
    key: Tensor
    place: Tensor


@dataclass(frozen=True)
class ViewPlan:
    """An epoch: which picture each position shows, the seed with which it is read (of files), and
    what is drawn for its two views.
    """

    index: NDArray[np.int64]
    seeds: NDArray[np.int64]
    views: tuple[Draws, Draws]


class Views(Protocol):
    """A training split as two views of each picture."""

    def __len__(self) -> int: ...

    def sample_epoch(self, generator: np.random.Generator) -> ViewPlan:
        """What an epoch shows at each of its positions, fixed here."""

    def batches(self, plan: ViewPlan, slices: Sequence[slice]) -> Iterator[TwoViews]:
        """The views at these positions of a sampled epoch, a batch each."""

    def close(self) -> None:
        """End what runs beside the training."""


def open_views(data: Dataset, recipe: Recipe, device: torch.device, processes: int) -> Views:
    """The training split of a data set as views, on the device or streamed to it from disk."""
    split, normalise = data.train, Normalise(data.mean, data.std, device)
    recipe = replace(recipe, size=recipe.size or _evaluated_side(data.test))
    if isinstance(split, InMemorySplit):
        return DeviceViews(split.images, recipe, normalise, device)
    if not isinstance(split, DiskSplit):
        raise DataError("pictures with annotations are for detection and segmentation")
    pictures = getattr(split.reader, "pictures", None)
    if pictures is not None:  # in memory already: (N, 3, H, W)
        chosen = pictures if len(split) == len(pictures) else pictures[split.index]
        return DeviceViews(chosen.permute(0, 2, 3, 1), recipe, normalise, device)
    return StreamedViews(split, recipe, normalise, device, processes)


def plain_images(split: Split, data: Dataset, device: torch.device, processes: int) -> Images:
    """A split of a data set as its test split is shown, with its labels: for features of training
    pictures.
    """
    if isinstance(split, InMemorySplit):
        return DeviceImages(split, 0, data.mean, data.std, device)
    if not isinstance(split, DiskSplit) or not isinstance(data.test, DiskSplit):
        raise DataError("pictures with annotations are for detection and segmentation")
    reader: Any = split.reader
    test: Any = data.test.reader
    shown = replace(split, reader=replace(reader, transform=test.transform))
    pool = ReadingPool([shown], processes, device.type == "cuda")
    return StreamedImages(shown, pool, Normalise(data.mean, data.std, device), device)


def all_plain(data: Dataset, device: torch.device, processes: int, size: int) -> Iterator[Tensor]:
    """All training pictures as test pictures are shown, in order, (B, C, H, W) of at most `size`
    at a time.
    """
    images = plain_images(data.train, data, device, processes)
    try:
        for shown, _ in images.eval_batches(slice(0, len(images)), size):
            yield shown
    finally:
        images.close()


def _evaluated_side(test: Split) -> int:
    if isinstance(test, InMemorySplit):
        return test.images.shape[1]
    reader: Any = test.reader
    return int(reader(int(test.index[0]), 0).shape[0])


class DeviceViews:
    """Pictures on the device, (N, H, W, C) uint8 (a `Views`)."""

    def __init__(
        self, pictures: Tensor, recipe: Recipe, normalise: Normalise, device: torch.device
    ) -> None:
        self.pictures, self.recipe, self.device = pictures.to(device), recipe, device
        self._normalised = normalise

    def __len__(self) -> int:
        return len(self.pictures)

    def sample_epoch(self, generator: np.random.Generator) -> ViewPlan:
        _, height, width, _ = self.pictures.shape
        order = draw_order(len(self), 1, generator)
        views = [draw_view(len(self), self.recipe, generator, (height, width)) for _ in range(2)]
        return ViewPlan(order, np.zeros_like(order), (views[0], views[1]))

    def batches(self, plan: ViewPlan, slices: Sequence[slice]) -> Iterator[TwoViews]:
        for positions in slices:
            index = torch.from_numpy(plan.index[positions]).to(self.device, non_blocking=True)
            pixels = self.pictures[index]
            views = [self._view(pixels, draws.at(positions)) for draws in plan.views]
            yield TwoViews(views[0], views[1], index)

    def _view(self, pixels: Tensor, draws: Draws) -> Tensor:
        boxes = torch.from_numpy(draws.boxes).to(self.device, non_blocking=True)
        flip = torch.from_numpy(draws.flip).to(self.device, non_blocking=True)
        cropped = view_ops.crop_resize(pixels, boxes, flip, int(self.recipe.size or 0))
        return _normalise(coloured(cropped, draws), self._normalised)

    def close(self) -> None:
        """Nothing to end."""


class StreamedViews:
    """Pictures in files, cropped where they are decoded (a `Views`)."""

    def __init__(
        self,
        split: DiskSplit,
        recipe: Recipe,
        normalise: Normalise,
        device: torch.device,
        processes: int,
    ) -> None:
        reader: Any = split.reader
        crops = _TwoCrops(int(recipe.size or 0), recipe.smallest_area, recipe.flip_probability)
        self.split = replace(split, reader=replace(reader, transform=crops))
        self.pool = ReadingPool([self.split], processes, device.type == "cuda")
        self.recipe, self.device, self._normalised = recipe, device, normalise

    def __len__(self) -> int:
        return len(self.split)

    def sample_epoch(self, generator: np.random.Generator) -> ViewPlan:
        order = draw_order(len(self), 1, generator)
        seeds = generator.integers(0, 2**63 - 1, len(self))
        views = [draw_view(len(self), self.recipe, generator, None) for _ in range(2)]
        return ViewPlan(order, seeds, (views[0], views[1]))

    def batches(self, plan: ViewPlan, slices: Sequence[slice]) -> Iterator[TwoViews]:
        requests = (
            (0, self.split.index[plan.index[positions]], plan.seeds[positions])
            for positions in slices
        )
        for positions, pixels in zip(slices, self.pool.read(requests), strict=True):
            both = pixels.to(self.device, non_blocking=True).to(torch.float32) / 255
            crops = both.permute(0, 3, 1, 2).chunk(2, 2)
            views = [
                _normalise(coloured(crop.contiguous(), draws.at(positions)), self._normalised)
                for crop, draws in zip(crops, plan.views, strict=True)
            ]
            index = torch.from_numpy(plan.index[positions]).to(self.device, non_blocking=True)
            yield TwoViews(views[0], views[1], index)

    def close(self) -> None:
        self.pool.close()


class _TwoCrops:
    """(3, H, W) uint8 -> (3, 2 S, S), one view above the other."""

    def __init__(self, size: int, smallest_area: float, flip_probability: float) -> None:
        from torchvision.transforms import v2

        crop = v2.RandomResizedCrop(size, (smallest_area, 1.0), ASPECTS, antialias=True)
        self.transform = v2.Compose([crop, v2.RandomHorizontalFlip(flip_probability)])

    def __call__(self, pixels: Tensor) -> Tensor:
        return torch.cat([self.transform(pixels), self.transform(pixels)], 1)


def coloured(pictures: Tensor, draws: Draws) -> Tensor:
    """(B, C, S, S) in [0, 1], jittered, greyed and blurred as drawn, each step on those pictures
    alone that take it. The draws lie on the CPU, so that nothing waits for the device.
    """
    pictures, device = pictures.clone(), pictures.device
    factors = torch.from_numpy(draws.factors).to(device, non_blocking=True)
    for place in range(4):
        for step, adjust in enumerate(view_ops.COLOURS):
            if len(which := _where(draws.order[:, place] == step, device)):
                pictures[which] = adjust(pictures[which], factors[which, step])
    if len(which := _where(draws.grey, device)):
        pictures[which] = view_ops.to_grey(pictures[which])
    if len(which := _where(draws.sigma > 0, device)):
        sigma = torch.from_numpy(draws.sigma).to(device, non_blocking=True)
        pictures[which] = view_ops.gaussian_blur(pictures[which], sigma[which])
    return pictures


def _where(chosen: NDArray[np.bool_], device: torch.device) -> Tensor:
    return torch.from_numpy(np.flatnonzero(chosen)).to(device, non_blocking=True)


def _normalise(pictures: Tensor, normalise: Normalise) -> Tensor:
    stored = pictures.contiguous(memory_format=torch.channels_last)
    return normalise(255 * stored.permute(0, 2, 3, 1))
