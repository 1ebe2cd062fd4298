"""Batches cut from images that live on the device: crop and flip per image in one indexed gather, then normalised."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rm.datasets import Split


@dataclass(frozen=True)
class Views:
    """Which image each position of an epoch shows and how: all (N,) int64 tensors on the device, flip bool."""

    index: Tensor
    top: Tensor
    left: Tensor
    flip: Tensor


def draw_views(count: int, padding: int, flip: bool, generator: np.random.Generator, device: torch.device) -> Views:
    """An epoch's order, crops (0..2*padding from the padded image's corner) and flips, drawn at once."""
    draws = (
        generator.permutation(count),
        generator.integers(0, 2 * padding + 1, count),
        generator.integers(0, 2 * padding + 1, count),
        (generator.random(count) < 0.5) & flip,
    )
    return Views(*(torch.from_numpy(draw).to(device) for draw in draws))


class DeviceImages:
    """A split on the device, zero-padded once, from which augmented or plain batches are gathered."""

    def __init__(
        self, split: Split, padding: int, mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
    ) -> None:
        _, self.height, self.width, _ = split.images.shape
        self.padding = padding
        self.padded = F.pad(split.images, (0, 0, padding, padding, padding, padding)).to(device)
        self.labels = split.labels.to(device)
        # (pixel / 255 - mean) / std as one multiply-add
        self.scale = (1 / (255 * torch.tensor(std))).to(device)
        self.shift = (-torch.tensor(mean) / torch.tensor(std)).to(device)
        self._rows = torch.arange(self.height, device=device)
        self._columns = torch.arange(self.width, device=device)

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, views: Views, positions: slice) -> tuple[Tensor, Tensor]:
        """Augmented images (B, C, H, W) float32, stored channels last, and labels (B,)."""
        index = views.index[positions]
        rows = views.top[positions, None] + self._rows
        columns = torch.where(views.flip[positions, None], self.width - 1 - self._columns, self._columns)
        columns = columns + views.left[positions, None]
        pixels = self.padded[index[:, None, None], rows[:, :, None], columns[:, None, :]]
        return self._normalised(pixels), self.labels[index]

    def plain(self, positions: slice) -> tuple[Tensor, Tensor]:
        """Images as they are, (B, C, H, W) float32, and labels (B,)."""
        inner_rows = slice(self.padding, self.padding + self.height)
        inner_columns = slice(self.padding, self.padding + self.width)
        return self._normalised(self.padded[positions, inner_rows, inner_columns]), self.labels[positions]

    def _normalised(self, pixels: Tensor) -> Tensor:
        return (pixels * self.scale + self.shift).permute(0, 3, 1, 2)
