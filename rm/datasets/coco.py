"""COCO 2017 for detection: `train2017/`, `val2017/` and `annotations/instances_*.json`, and for a
semantic branch `stuffthingmaps/`.
"""

from pathlib import Path
from typing import Annotated

from rm.datasets import AnnotatedSplit, Dataset

TASK = "detection"


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
    from rm.dense.coco import CATEGORIES, CocoPictures, read_pictures

    require_packages()
    place = folder / root
    splits = {}
    for name in ("train", "val"):
        path = place / "annotations" / f"instances_{name}2017.json"
        splits[name] = CocoPictures(
            place / f"{name}2017",
            path,
            place / "stuffthingmaps" / f"{name}2017",
            read_pictures(path, name == "train"),
            short_side,
            long_side,
            training=name == "train",
        )
    return Dataset(
        train=AnnotatedSplit.of(splits["train"], len(splits["train"].pictures)),
        test=AnnotatedSplit.of(splits["val"], len(splits["val"].pictures)),
        classes=len(CATEGORIES),
        mean=(),  # the models normalise
        std=(),
        padding=0,
        flip=True,
    )
