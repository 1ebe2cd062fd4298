"""Tiny-ImageNet: 200 classes of ImageNet at 64 px (Stanford CS231n)."""

from pathlib import Path
from typing import Annotated

import numpy as np

from rm.datasets import DataError, Dataset
from rm.datasets._pictures import check_count, listed, of_pictures, read_pairs

_FOLDER = "tiny-imagenet-200"
LOOKS_FOR = ("tiny-imagenet-200/train",)
_HINT = (
    "Unpack tiny-imagenet-200.zip (237 MiB, http://cs231n.stanford.edu/tiny-imagenet-200.zip) in "
    "$RM_DATA_DIR"
)


def tiny_imagenet(
    folder: Path,
    *,
    smallest_area: Annotated[float, "0 < smallest_area <= 1"] = 0.08,
    complete: bool = True,
) -> Dataset:
    """100,000 training and 10,000 validation pictures of 64 px, some grey. Training: a random part
    as 64 px (bicubic), mirrored half of the time; evaluation: as they are. Classes in the order of
    their names.

    smallest_area   of the part
    complete        whether all of them must be there
    """
    from rm.input.image_files import crop_transform, whole_transform

    place = folder / _FOLDER
    if not (place / "train").is_dir():
        raise DataError(f"tiny_imagenet: there is no {place / 'train'}. {_HINT}")
    classes = sorted(path.name for path in (place / "train").iterdir() if path.is_dir())
    number = {name: label for label, name in enumerate(classes)}
    names, labels = [], []
    for name in classes:
        files = sorted(path.name for path in (place / "train" / name / "images").glob("*.JPEG"))
        names += [f"train/{name}/images/{file}" for file in files]
        labels += [number[name]] * len(files)
    pairs = read_pairs(place / "val" / "val_annotations.txt", "tiny_imagenet", _HINT)
    if unknown := sorted({pair[1] for pair in pairs} - set(number)):
        raise DataError(
            f"tiny_imagenet: val_annotations.txt has the class {unknown[0]}, for which there is "
            f"no folder in {place / 'train'}. {_HINT}"
        )
    for found, expected, what in (
        (len(names), 100_000, f"pictures in {place / 'train'}"),
        (len(pairs), 10_000, "lines in val_annotations.txt"),
    ):
        check_count(found, expected if complete else None, "tiny_imagenet", what, _HINT)
    crop = crop_transform(64, interpolation="bicubic", smallest_area=smallest_area)
    return of_pictures(
        listed(place, names, np.array(labels, dtype=np.int64), crop),
        listed(
            place,
            [f"val/images/{pair[0]}" for pair in pairs],
            np.array([number[pair[1]] for pair in pairs], dtype=np.int64),
            whole_transform(64),
        ),
        len(classes),
    )
