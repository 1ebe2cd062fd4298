"""The pure pieces of mixing: boxes, areas, the resized paste, the soft loss. A box is (y0, x0, y1,
x1), half-open.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Box = tuple[int, int, int, int]


def sample_box(size: tuple[int, int], area: float, generator: np.random.Generator) -> Box:
    """Draw the box that covers about `area` of an image, clipped where it leaves the image
    (CutMix's `rand_bbox`).

    size      (H, W) in pixels
    area      wanted fraction in [0, 1]; sides are int(side * sqrt(area)), half of that each side
              of a uniform centre
    returns   (y0, x0, y1, x1), maybe smaller than wanted, empty when half a side rounds to 0
    """
    return sample_scaled_box(size, math.sqrt(area), generator)


def sample_scaled_box(size: tuple[int, int], scale: float, generator: np.random.Generator) -> Box:
    """As `sample_box`, from the sides' fraction in [0, 1] instead of the area's."""
    bounds = []
    for side in size:
        half = int(side * scale) // 2
        centre = int(generator.integers(side))
        bounds.append((max(centre - half, 0), min(centre + half, side)))
    (y0, y1), (x0, x1) = bounds
    return y0, x0, y1, x1


def mixed_area(box: Box, size: tuple[int, int]) -> float:
    """The fraction of an (H, W) image that the box really covers: the lambda of labels and
    losses.
    """
    y0, x0, y1, x1 = box
    return (y1 - y0) * (x1 - x0) / (size[0] * size[1])


def resize_fill(images: Tensor, previous: Tensor, box: Box, mode: str = "nearest") -> Tensor:
    """Fill `box` of each image with the whole previous image, resized (ResizeFill, Eq. 1).

    images    (B, C, H, W)   current batch, left unchanged
    previous  (N, C, H, W)   N >= B; its first B images are used
    mode      nearest | bilinear (with align_corners=True, as the released code)
    returns   (B, C, H, W)
    """
    y0, x0, y1, x1 = box
    align = True if mode == "bilinear" else None
    patch = F.interpolate(
        previous[: len(images)], size=(y1 - y0, x1 - x0), mode=mode, align_corners=align
    )
    return _pasted(images, patch, box)


def cut_fill(images: Tensor, previous: Tensor, box: Box) -> Tensor:
    """Fill `box` of each image with the same box of the previous image (CutMix, Eq. 1 of Yun et
    al. 2019).

    Shapes as in `resize_fill`; the current batch is left unchanged.
    """
    y0, x0, y1, x1 = box
    return _pasted(images, previous[: len(images), :, y0:y1, x0:x1], box)


def _pasted(images: Tensor, patch: Tensor, box: Box) -> Tensor:
    y0, x0, y1, x1 = box
    mixed = images.clone()
    mixed[:, :, y0:y1, x0:x1] = patch
    return mixed


def mix_targets(targets: Tensor, previous: Tensor, area: float) -> Tensor:
    """(1 - area) * targets + area * previous, (B, K) each; `previous` may have more rows (Eq.
    2).
    """
    return targets.mul(1 - area).add_(previous[: len(targets)], alpha=area)


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over the batch of -sum_k targets_k log softmax(logits)_k, in fp32 or wider.

    logits    (B, K)   any floating type
    targets   (B, K)   rows sum to 1
    returns   scalar
    """
    if logits.dtype in (torch.bfloat16, torch.float16):
        logits = logits.float()
    return -(targets * F.log_softmax(logits, dim=1)).sum(dim=1).mean()


def pair_cross_entropy(logits: Tensor, own: Tensor, partner: Tensor, lam: float) -> Tensor:
    """-(lambda log s(z_a - z_b) + (1 - lambda) log s(z_b - z_a)), s the logistic function: which
    of the two classes it is, mean over the pairs whose classes a, b (B,) differ; 0 without any.
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    margin = (wide.gather(1, own[:, None]) - wide.gather(1, partner[:, None]))[:, 0]
    loss = -(lam * F.logsigmoid(margin) + (1 - lam) * F.logsigmoid(-margin))
    differ = own != partner
    return (loss * differ).sum() / differ.sum().clamp(min=1)
