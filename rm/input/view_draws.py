"""What is drawn for the views of an epoch's pictures: all at once, before it begins."""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

CROP_ATTEMPTS = 10
ASPECTS = (3 / 4, 4 / 3)
"""Of a crop, width by height; drawn uniformly in its logarithm."""


@dataclass(frozen=True)
class Recipe:
    """How a view is made; the defaults are MoCo v2's.

    size                a side of a view; None: as large as the data set's test pictures
    smallest_area       of a crop, as a share of the picture
    jitter              in brightness, contrast and saturation (factors 1 - j to 1 + j), and hue
                        (turns -j to j of the circle), in random order
    *_probability       of each of the steps
    blur_sigma          lowest and highest deviation, in pixels
    """

    size: int | None = None
    smallest_area: float = 0.2
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1)
    jitter_probability: float = 0.8
    grey_probability: float = 0.2
    blur_probability: float = 0.5
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    flip_probability: float = 0.5


@dataclass(frozen=True)
class Draws:
    """What is drawn for one view at each of N positions.

    boxes     (N, 4) y0, x0, y1, x1; zeros where a reading process crops and mirrors
    flip      (N,) bool
    factors   (N, 4) float32, in the order of `view_ops.COLOURS`; order (N, 4), the step at each
              place, all -1 where colours stay
    grey      (N,) bool
    sigma     (N,) float32, 0: not blurred
    """

    boxes: NDArray[np.int32]
    flip: NDArray[np.bool_]
    factors: NDArray[np.float32]
    order: NDArray[np.int8]
    grey: NDArray[np.bool_]
    sigma: NDArray[np.float32]

    def at(self, positions: slice) -> "Draws":
        """Those of some positions."""
        return Draws(*(getattr(self, field.name)[positions] for field in fields(self)))


def draw_view(
    count: int,
    recipe: Recipe,
    generator: np.random.Generator,
    shape: tuple[int, int] | None,
) -> Draws:
    """One view's draws for `count` pictures of (H, W) pixels; shape None: crop and mirror are
    drawn elsewhere.
    """
    boxes = np.zeros((count, 4), dtype=np.int32)
    if shape is not None:
        boxes = _draw_boxes(count, shape, recipe.smallest_area, generator)
    flip = generator.random(count) < recipe.flip_probability
    jitter = np.array(recipe.jitter)
    middle = np.array([1.0, 1.0, 1.0, 0.0])
    lowest = np.maximum(middle - jitter, [0, 0, 0, -0.5])
    factors = generator.uniform(lowest, middle + jitter, (count, 4)).astype(np.float32)
    order = generator.permuted(np.tile(np.arange(4, dtype=np.int8), (count, 1)), axis=1)
    order[generator.random(count) >= recipe.jitter_probability] = -1
    grey = generator.random(count) < recipe.grey_probability
    sigma = generator.uniform(*recipe.blur_sigma, count).astype(np.float32)
    sigma[generator.random(count) >= recipe.blur_probability] = 0
    return Draws(boxes, flip, factors, order, grey, sigma)


def _draw_boxes(
    count: int, shape: tuple[int, int], smallest_area: float, generator: np.random.Generator
) -> NDArray[np.int32]:
    """(N, 4): area and aspect as torchvision's RandomResizedCrop draws them, ten attempts at a box
    that fits, else the largest one in the middle whose aspect is allowed.
    """
    height, width = shape
    rows = np.full(count, min(height, round(width / ASPECTS[0])))
    columns = np.full(count, min(width, round(height * ASPECTS[1])))
    top, left = (height - rows) // 2, (width - columns) // 2
    misfits = np.arange(count)
    narrowest, widest = np.log(ASPECTS)
    for _ in range(CROP_ATTEMPTS):
        area = height * width * generator.uniform(smallest_area, 1, len(misfits))
        aspect = np.exp(generator.uniform(narrowest, widest, len(misfits)))
        h, w = np.rint(np.sqrt(area / aspect)), np.rint(np.sqrt(area * aspect))
        fits = (h > 0) & (h <= height) & (w > 0) & (w <= width)
        found, h, w = misfits[fits], h[fits].astype(int), w[fits].astype(int)
        rows[found], columns[found] = h, w
        top[found] = generator.integers(0, height - h + 1)
        left[found] = generator.integers(0, width - w + 1)
        misfits = misfits[~fits]
    return np.stack([top, left, top + rows, left + columns], 1).astype(np.int32)
