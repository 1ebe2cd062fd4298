"""Pictures and label maps in files, read by OpenCV as OpenMMLab reads them."""

from pathlib import Path
from typing import Any

import numpy as np

from rm.datasets import DataError
from rm.dense.transforms import Pixels

_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"


def read_image(path: Path) -> Pixels:
    """(H, W, 3) uint8, BGR; DataError for what is missing or no whole picture."""
    import cv2

    return _read(path, cv2.IMREAD_COLOR)


def read_labels(path: Path) -> Pixels:
    """(H, W) uint8."""
    import cv2

    labels = _read(path, cv2.IMREAD_UNCHANGED)
    if labels.ndim != 2:
        raise DataError(f"{path}: expected a map of labels in one channel, found {labels.shape}")
    return labels


def _read(path: Path, mode: int) -> Pixels:
    import cv2

    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    # OpenCV fills what a truncated JPEG lacks with grey, and says nothing.
    whole = not data.startswith(_JPEG_START) or _JPEG_END in data[-4096:]
    image: Any = None
    if data and whole:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), mode)
    if image is None:
        raise DataError(
            f"{path}: expected a whole JPEG or PNG picture, found {len(data)} bytes that are "
            "none; put the original file there again"
        )
    return np.asarray(image, dtype=np.uint8)
