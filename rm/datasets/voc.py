"""PASCAL VOC 2007 and 2012 for detection, as their archives unpack:
`VOCdevkit/VOC2007/{Annotations,ImageSets,JPEGImages}`.
"""

from pathlib import Path
from typing import Annotated

from rm.datasets import Dataset

TASK = "detection"
LOOKS_FOR = ("{root}/VOC2007", "{root}/VOC2012")
CONSTRAINTS = {"smallest_side <= short_side": "training goes from smallest_side to short_side"}


def voc(
    folder: Path,
    *,
    smallest_side: Annotated[int, "smallest_side >= 32"] = 480,
    short_side: Annotated[int, "short_side >= 32"] = 800,
    long_side: Annotated[int, "long_side >= 32"] = 1333,
    complete: bool = True,
    root: Annotated[str, "len(root) > 0"] = "VOCdevkit",
) -> Dataset:
    """trainval of 2007 and 2012 (16,551 pictures) to train on, test of 2007 (4,952) to test on; 20
    classes (Everingham et al., IJCV 2010). Training includes the objects that are marked as
    difficult, and draws a shorter side from smallest_side to short_side in steps of 32.

    complete   whether all of them must be there
    DataError where a file is missing or says what cannot be.
    """
    from rm.dense import require_packages
    from rm.dense.voc import CLASSES, voc_split

    require_packages()
    sides = tuple(range(smallest_side, short_side + 1, 32))
    parts = {"train": [("2007", "trainval"), ("2012", "trainval")], "test": [("2007", "test")]}
    counts = {"train": 16_551, "test": 4_952}
    train, test = (
        voc_split(
            folder / root,
            parts[name],
            counts[name] if complete else None,
            (short_side, long_side),
            sides if name == "train" else (),
        )
        for name in ("train", "test")
    )
    # The models normalise.
    return Dataset(train, test, len(CLASSES), mean=(), std=(), padding=0, flip=True)
