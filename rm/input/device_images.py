"""Batches cut from images that live on the device: crop and flip per image in one indexed gather,
then normalised.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from rm.datasets import InMemorySplit


class Images(Protocol):
    """A split as a run sees it, wherever it lies: batches of (B, C, H, W) float32, stored channels
    last, with labels (B,).
    """

    def __len__(self) -> int: ...

    def sample_epoch(self, generator: np.random.Generator, repeats: int = 1) -> Any:
        """What an epoch shows at each of its positions, 0..len: fixed here, whoever asks for which
        of them later. `repeats`: how many views of an image in a row.
        """

    def batches(self, views: Any, slices: Sequence[slice]) -> Iterator[tuple[Tensor, Tensor]]:
        """The augmented images at these positions of a sampled epoch, a batch each."""

    def eval_batches(self, positions: slice, largest: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Images as they are evaluated, in their own order, in batches of at most `largest`."""

    def close(self) -> None:
        """End what runs beside the training."""


@dataclass(frozen=True)
class EpochPlan:
    """Which image each position of an epoch shows and how: all (N,) int64 tensors on the device,
    flip bool.
    """

    index: Tensor
    top: Tensor
    left: Tensor
    flip: Tensor

    @property
    def places(self) -> Tensor:
        """Of each position, its picture in the split: (N,) on the device."""
        return self.index


def draw_order(count: int, repeats: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Which image each of an epoch's `count` positions shows: a permutation, of which each image
    comes `repeats` times in a row and the last ones, for want of positions, not at all.
    """
    return np.repeat(generator.permutation(count), repeats)[:count]


def plan_epoch(
    count: int,
    padding: int,
    flip: bool,
    generator: np.random.Generator,
    device: torch.device,
    repeats: int = 1,
) -> EpochPlan:
    """An epoch's order, crops (0..2*padding from the padded image's corner) and flips, drawn at
    once.
    """
    draws = (
        draw_order(count, repeats, generator),
        generator.integers(0, 2 * padding + 1, count),
        generator.integers(0, 2 * padding + 1, count),
        (generator.random(count) < 0.5) & flip,
    )
    return EpochPlan(*(torch.from_numpy(draw).to(device) for draw in draws))


class Normalise:
    """(pixel / 255 - mean) / std on the device, as one multiply-add."""

    def __init__(
        self, mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
    ) -> None:
        self.scale = (1 / (255 * torch.tensor(std))).to(device)
        self.shift = (-torch.tensor(mean) / torch.tensor(std)).to(device)

    def __call__(self, pixels: Tensor) -> Tensor:
        """(B, H, W, C) of 0..255, uint8 or float16 -> (B, C, H, W) float32, channels last."""
        return (pixels * self.scale + self.shift).permute(0, 3, 1, 2)


def padded(images: Tensor, padding: int, border: Literal["zeros", "reflect"]) -> Tensor:
    """(N, H, W, C) uint8 -> (N, H + 2 padding, W + 2 padding, C); reflect: mirrored without
    repeating the edge, for padding less than a side. ValueError for more.
    """
    if border == "zeros":
        return F.pad(images, (0, 0, padding, padding, padding, padding))
    for axis in (1, 2):
        side = images.shape[axis]
        if padding >= side:
            raise ValueError(f"{side} pixels cannot be mirrored {padding} pixels beyond the edge")
        places = torch.arange(-padding, side + padding, device=images.device).abs()
        images = images.index_select(axis, (side - 1) - (side - 1 - places).abs())
    return images


class DeviceImages:
    """A split on the device, padded once, from which augmented or plain batches are gathered
    (an `Images`).
    """

    def __init__(
        self,
        split: InMemorySplit,
        padding: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        device: torch.device,
        flip: bool = False,
        border: Literal["zeros", "reflect"] = "zeros",
    ) -> None:
        _, self.height, self.width, _ = split.images.shape
        self.padding, self.flip = padding, flip
        self.padded = padded(split.images, padding, border).to(device)
        self.labels = split.labels.to(device)
        self._normalised = Normalise(mean, std, device)
        self._rows = torch.arange(self.height, device=device)
        self._columns = torch.arange(self.width, device=device)

    def __len__(self) -> int:
        return len(self.labels)

    def sample_epoch(self, generator: np.random.Generator, repeats: int = 1) -> EpochPlan:
        return plan_epoch(
            len(self), self.padding, self.flip, generator, self.labels.device, repeats
        )

    def batches(self, plan: EpochPlan, slices: Sequence[slice]) -> Iterator[tuple[Tensor, Tensor]]:
        return (self.batch(plan, positions) for positions in slices)

    def eval_batches(self, positions: slice, largest: int) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(positions.start, positions.stop, largest):
            yield self.plain(slice(start, min(start + largest, positions.stop)))

    def close(self) -> None:
        """Nothing to end."""

    def batch(self, plan: EpochPlan, positions: slice) -> tuple[Tensor, Tensor]:
        """Augmented images (B, C, H, W) float32, stored channels last, and labels (B,)."""
        index = plan.index[positions]
        rows = plan.top[positions, None] + self._rows
        columns = torch.where(
            plan.flip[positions, None], self.width - 1 - self._columns, self._columns
        )
        columns = columns + plan.left[positions, None]
        pixels = self.padded[index[:, None, None], rows[:, :, None], columns[:, None, :]]
        return self._normalised(pixels), self.labels[index]

    def plain(self, positions: slice) -> tuple[Tensor, Tensor]:
        """Images as they are, (B, C, H, W) float32, and labels (B,)."""
        inner_rows = slice(self.padding, self.padding + self.height)
        inner_columns = slice(self.padding, self.padding + self.width)
        return self._normalised(self.padded[positions, inner_rows, inner_columns]), self.labels[
            positions
        ]
