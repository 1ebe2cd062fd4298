"""COCO 2017 for detection: `train2017/`, `val2017/` and `annotations/instances_*.json`, and for a
semantic branch `stuffthingmaps/`.
"""

from pathlib import Path
from typing import Annotated

from rm.datasets import Dataset

TASK = "detection"
LOOKS_FOR = ("{root}/annotations", "{root}/train2017", "{root}/val2017")


def coco(
    folder: Path,
    *,
    short_side: Annotated[int, "short_side >= 32"] = 800,
    long_side: Annotated[int, "long_side >= 32"] = 1333,
    root: Annotated[str, "len(root) > 0"] = "coco",
) -> Dataset:
    """Pictures of `folder`/`root` with their objects, resized to fit into both sides (Lin et al.,
    ECCV 2014). Those without objects are not trained on.

    DataError where a file is missing or says what cannot be.
    """
    from rm.dense import require_packages
    from rm.dense.coco import CATEGORIES, coco_split

    require_packages()
    train, val = (coco_split(folder / root, n, short_side, long_side) for n in ("train", "val"))
    return Dataset(
        train=train,
        test=val,
        classes=len(CATEGORIES),
        mean=(),  # the models normalise
        std=(),
        padding=0,
        flip=True,
    )
