"""A file of COCO's annotations: its categories, and how it is read."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rm.datasets import DataError

_GAPS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
CATEGORIES = tuple(number for number in range(1, 91) if number not in _GAPS)
"""COCO's ids of its 80 categories; a class is a position in it."""


def read_annotations(path: Path) -> Mapping[str, Any]:
    """The content of an `instances_*.json`; DataError names the file and what is wrong."""
    try:
        data: Any = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError(
            f"coco: there is no {path}; put COCO 2017 there (annotations/instances_*.json, "
            "train2017/, val2017/), or set RM_DATA_DIR"
        ) from None
    except (OSError, ValueError) as error:
        raise DataError(f"coco: {path} cannot be read: {error}") from None
    if not isinstance(data, dict) or not {"images", "annotations", "categories"} <= set(data):
        raise DataError(f"coco: {path} lacks one of images, annotations and categories")
    return data
