"""scikit-learn's bundled handwritten digits: 1,797 real 8x8 grey images (NIST, UCI "Optical
Recognition of Handwritten Digits").

Read from the installed package's data file, which costs no import of scikit-learn, or from
`digits.csv.gz` in the data folder.
"""

import importlib.util
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F

from rm.datasets import DataError, Dataset, InMemorySplit

_TRAIN_IMAGES = 1000


def digits(
    folder: Path,
    *,
    size: Annotated[int, "size >= 8"] = 32,
    classes: Annotated[
        list[int] | None,
        "len(classes) >= 2 and all(0 <= c <= 9 and classes.count(c) == 1 for c in classes)",
    ] = None,
) -> Dataset:
    """1,000 training and 797 test images, resized (bilinear) to size x size; the split is drawn
    once, with a fixed seed.

    classes   the images of these digits alone; their labels are 0, 1, ... in this order
    """
    table = np.loadtxt(_file(folder), delimiter=",", dtype=np.float32)
    images = torch.from_numpy(table[:, :-1].reshape(-1, 1, 8, 8)) * (255 / 16)
    images = F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)
    pixels = images.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    labels = torch.from_numpy(table[:, -1].astype(np.int64))
    order = np.random.default_rng(0).permutation(len(labels))
    train, test = order[:_TRAIN_IMAGES], order[_TRAIN_IMAGES:]
    kept = list(range(10)) if classes is None else classes
    return Dataset(
        train=_of_classes(InMemorySplit(pixels[train], labels[train]), kept),
        test=_of_classes(InMemorySplit(pixels[test], labels[test]), kept),
        classes=len(kept),
        mean=(0.3053,),
        std=(0.3517,),
        padding=size // 8,
        flip=False,  # a mirrored 2 is no digit
    )


def _of_classes(split: InMemorySplit, classes: list[int]) -> InMemorySplit:
    """The images of these classes, relabelled by their position in the list."""
    label_of = torch.full((10,), -1)
    label_of[classes] = torch.arange(len(classes))
    labels = label_of[split.labels]
    return InMemorySplit(split.images[labels >= 0], labels[labels >= 0])


def _file(folder: Path) -> Path:
    package = importlib.util.find_spec("sklearn")
    places = [folder / "digits.csv.gz"]
    if package is not None and package.submodule_search_locations:
        places.append(
            Path(next(iter(package.submodule_search_locations)))
            / "datasets"
            / "data"
            / "digits.csv.gz"
        )
    for place in places:
        if place.exists():
            return place
    raise DataError(
        f"digits: looked for {' and '.join(map(str, places))}; install scikit-learn, which brings "
        "it, or copy it there"
    )
