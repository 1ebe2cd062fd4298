"""ResizeMix: a whole image, made smaller, is pasted into another one (Qin et al., arXiv
2012.11101).

Scale tau ~ U(low, high) and one permutation a batch, a place for each image; the label's weight is
the pasted share of the area: x = Paste(Resize_tau(x[perm]), x), y = (1 - l) y + l y[perm], l =
area(patch) / area(x). After JayQine/ResizeMix, `run_apis/trainer.py`: nearest-neighbour, sides
int(side * tau), a centre uniform over all pixels and the patch then shifted until it lies inside,
so that it touches a border more often than a uniform place would. Source pixels are those of the
released size (ours: spaced by side / int(side * tau); theirs by 1 / tau), which differ by a pixel
at most.

`placement: clipped` is openmixup's (at 37e1372, the rows of the AMix paper): CutMix's box, one a
batch, half of int(side * tau) each side of a uniform centre and clipped; the partner is resized
into what is left of it. Its tau ~ Beta(1, 1), from U(0.1, 0.8) where it is outside of that, is the
same as ours.

No row of the RecursiveMix paper, which only discusses it; low 0.1, high 0.8, every batch, as in
all of the authors' configurations.
"""

from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rm.methods import Method, Mixed, draw_partner
from rm.ops import mix_targets, mixed_area, resize_fill, sample_scaled_box
from rm.schedules import StepContext

CONSTRAINTS = {"low <= high": "the scale is drawn between the two"}


class ResizeMix(Method):
    """low, high: range of the scale (official alpha and beta); probability: of mixing a batch;
    placement: clipped, a patch that would leave the image is smaller instead of shifted.
    """

    def __init__(
        self,
        *,
        low: Annotated[float, "0 < low <= 1"] = 0.1,
        high: Annotated[float, "0 < high <= 1"] = 0.8,
        probability: Annotated[float, "0 <= probability <= 1"] = 1.0,
        placement: Literal["shifted", "clipped"] = "shifted",
    ) -> None:
        super().__init__()
        self.low, self.high, self.probability = low, high, probability
        self.placement = placement

    def mix(
        self, images: Tensor, targets: Tensor, step: StepContext, model: nn.Module | None = None
    ) -> Mixed:
        generator = step.generator
        if generator.random() >= self.probability:
            return Mixed(images, targets, logs={"area": 0.0})
        height, width = images.shape[-2:]
        scale = generator.uniform(self.low, self.high)
        partner = draw_partner(images, generator)
        if self.placement == "clipped":
            box = sample_scaled_box((height, width), scale, generator)
            area = mixed_area(box, (height, width))
            mixed = resize_fill(images, images[partner], box) if area else images
            blended = mix_targets(targets, targets[partner], area)
            return Mixed(mixed, blended, partner, area, {"area": area})
        size = (max(int(height * scale), 1), max(int(width * scale), 1))
        top = _starts(height, size[0], len(images), generator)
        left = _starts(width, size[1], len(images), generator)
        patches = F.interpolate(images[partner], size=size)
        area = size[0] * size[1] / (height * width)
        return Mixed(
            paste(images, patches, np.stack([top, left])),
            mix_targets(targets, targets[partner], area),
            partner,
            area,
            {"area": area},
        )


def _starts(side: int, part: int, count: int, generator: np.random.Generator) -> np.ndarray:
    """Where `count` patches of length `part` start: around uniform centres, shifted to lie inside
    0..side.
    """
    return np.clip(generator.integers(side, size=count) - part // 2, 0, side - part)


def paste(images: Tensor, patches: Tensor, corners: np.ndarray) -> Tensor:
    """Put a patch into each image, each at its own place.

    images    (B, C, H, W)   left unchanged
    patches   (B, C, h, w)
    corners   (2, B)         top and left of each patch, which lies inside
    returns   (B, C, H, W)
    """
    device = images.device
    samples = torch.arange(len(images), device=device)[:, None, None]
    top, left = torch.from_numpy(corners).to(device, non_blocking=True)
    rows = top[:, None] + torch.arange(patches.shape[-2], device=device)
    columns = left[:, None] + torch.arange(patches.shape[-1], device=device)
    mixed = images.clone()
    mixed[samples, :, rows[:, :, None], columns[:, None, :]] = patches.permute(0, 2, 3, 1)
    return mixed
