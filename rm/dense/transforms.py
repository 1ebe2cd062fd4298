"""What happens to a picture and its annotations before a network sees them, as OpenMMLab's
transforms do it; what is drawn comes from the generator that is handed in, in their order.

Pictures are (H, W, 3) uint8, BGR, as OpenCV reads them.
"""

from typing import Any

import numpy as np
from numpy.random import RandomState
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
IGNORED = 255


def fit(height: int, width: int, short: int, long: int) -> tuple[int, int]:
    """The (height, width) at which neither the shorter side exceeds `short` nor the longer one
    `long`.
    """
    factor = min(long / max(height, width), short / min(height, width))
    return int(height * factor + 0.5), int(width * factor + 0.5)


def resize(image: Pixels, height: int, width: int) -> Pixels:
    """Bilinear."""
    import cv2

    out: Any = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(out, dtype=np.uint8)


def resize_labels(labels: Pixels, height: int, width: int) -> Pixels:
    """(H, W) of whole numbers, to the nearest."""
    import cv2

    out: Any = cv2.resize(labels, (width, height), interpolation=cv2.INTER_NEAREST)
    return np.asarray(out, dtype=np.uint8)


def resize_boxes(
    boxes: NDArray[np.float32], before: tuple[int, int], after: tuple[int, int]
) -> NDArray[np.float32]:
    """(N, 4) x0, y0, x1, y1, cut at the picture's edges."""
    (h, w), (height, width) = before, after
    scale = np.array([width / w, height / h] * 2, dtype=np.float32)
    limit = np.array([width, height] * 2, dtype=np.float32)
    return np.asarray(np.clip(boxes * scale, 0, limit), dtype=np.float32)


def flip_boxes(boxes: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """Mirrored left to right."""
    flipped = boxes.copy()
    flipped[:, 0], flipped[:, 2] = width - boxes[:, 2], width - boxes[:, 0]
    return flipped


def crop_box(
    labels: Pixels, size: int, most_of_one: float, draw: RandomState
) -> tuple[slice, slice]:
    """A random square of `size`, smaller where the picture is; up to ten more are drawn while one
    class has more than that share of the labelled pixels.
    """

    def one() -> tuple[slice, slice]:
        y = draw.randint(0, max(labels.shape[0] - size, 0) + 1)
        x = draw.randint(0, max(labels.shape[1] - size, 0) + 1)
        return slice(y, y + size), slice(x, x + size)

    box = one()
    for _ in range(10 if most_of_one < 1 else 0):
        classes, counts = np.unique(labels[box], return_counts=True)
        counts = counts[classes != IGNORED]
        if len(counts) > 1 and counts.max() / counts.sum() < most_of_one:
            break
        box = one()
    return box


def distort(image: Pixels, draw: RandomState) -> Pixels:
    """Brightness, contrast, saturation and hue, each half of the time; contrast before or after
    the colours (mmseg's PhotoMetricDistortion).
    """
    if draw.randint(2):
        image = _scaled(image, beta=draw.uniform(-32, 32))
    late = not draw.randint(2)
    if not late:
        image = _contrast(image, draw)
    image = _colour(image, draw)
    return _contrast(image, draw) if late else image


def _contrast(image: Pixels, draw: RandomState) -> Pixels:
    return _scaled(image, alpha=draw.uniform(0.5, 1.5)) if draw.randint(2) else image


def _colour(image: Pixels, draw: RandomState) -> Pixels:
    """Saturation, then hue."""
    import cv2

    def changed(image: Pixels, hue: bool) -> Pixels:
        hsv: Any = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
        if hue:
            hsv[..., 0] = (hsv[..., 0].astype(int) + draw.randint(-18, 18)) % 180
        else:
            hsv[..., 1] = _scaled(hsv[..., 1], alpha=draw.uniform(0.5, 1.5))
        return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR), dtype=np.uint8)

    for hue in (False, True):
        if draw.randint(2):
            image = changed(image, hue)
    return image


def _scaled(image: Pixels, alpha: float = 1, beta: float = 0) -> Pixels:
    out = image.astype(np.float32) * alpha + beta
    return np.asarray(np.clip(out, 0, 255), dtype=np.uint8)
