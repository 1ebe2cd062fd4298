"""Cutout: a square of every image is blanked (DeVries & Taylor, arXiv 1708.04552); labels stay.

For each image draw a centre uniformly over its pixels and set the square of side `size` around it,
clipped at the border, to 0 after normalisation: x_i = (1 - M_i) * x_i. After uoguelph-mlrg/Cutout,
`util/cutout.py` (later than its first commit, whose holes had twice the side), one hole an image.

Rows of the RecursiveMix paper: CIFAR-10 size 16 (the authors' command; 8 for CIFAR-100), ImageNet
size 112 (CutMix paper).
"""

from typing import Annotated

import numpy as np
import torch
from torch import Tensor, nn

from rm.methods import Method, Mixed
from rm.schedules import StepContext


class Cutout(Method):
    """size: side of the square in pixels; an odd one is a pixel less, as in the official code."""

    def __init__(self, *, size: Annotated[int, "size >= 1"] = 16) -> None:
        super().__init__()
        self.size = size

    def mix(
        self, images: Tensor, targets: Tensor, step: StepContext, model: nn.Module | None = None
    ) -> Mixed:
        generator = step.generator
        (count, _, height, width), device = images.shape, images.device
        rows = self._inside(height, generator.integers(height, size=count)).to(
            device, non_blocking=True
        )
        columns = self._inside(width, generator.integers(width, size=count)).to(
            device, non_blocking=True
        )
        hole = (rows[:, :, None] & columns[:, None, :])[:, None]
        return Mixed(images.masked_fill(hole, 0), targets, logs={"hole": hole.float().mean()})

    def _inside(self, side: int, centres: np.ndarray) -> Tensor:
        """(B,) centres along one side -> (B, side): which pixels the square covers; outside the
        image there are none.
        """
        distance = np.arange(side) - centres[:, None]
        half = self.size // 2
        return torch.from_numpy((-half <= distance) & (distance < half))
