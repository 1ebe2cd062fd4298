"""ADE20K for segmentation: `images/{training,validation}/*.jpg` and `annotations/.../*.png`."""

from pathlib import Path
from typing import Annotated

from rm.datasets import Dataset

TASK = "segmentation"
LOOKS_FOR = ("{root}/images", "{root}/annotations")


def ade20k(
    folder: Path,
    *,
    short_side: Annotated[int, "short_side >= 32"] = 512,
    long_side: Annotated[int, "long_side >= 32"] = 2048,
    crop: Annotated[int, "crop >= 32"] = 512,
    root: Annotated[str, "len(root) > 0"] = "ADEChallengeData2016",
) -> Dataset:
    """Pictures of `folder`/`root` with a class for each pixel (Zhou et al., CVPR 2017): trained on
    as crops of what fits into both sides times 0.5 to 2, evaluated whole.

    DataError where a file is missing.
    """
    from rm.dense import require_packages
    from rm.dense.ade import CLASSES, scene_split

    require_packages()
    place = folder / root
    train, val = (
        scene_split(place, name, short_side, long_side, crop)
        for name in ("training", "validation")
    )
    return Dataset(
        train=train,
        test=val,
        classes=CLASSES,
        mean=(),  # the models normalise
        std=(),
        padding=0,
        flip=True,
    )
