"""CUB-200-2011: birds, 200 kinds (Wah et al., 2011)."""

from pathlib import Path
from typing import Annotated

import numpy as np

from rm.datasets import Dataset
from rm.datasets._pictures import check_count, check_files, listed, of_pictures, read_pairs

_FOLDER = "CUB_200_2011"
LOOKS_FOR = ("CUB_200_2011",)
_HINT = (
    "Unpack CUB_200_2011.tgz (1.1 GiB, https://data.caltech.edu/records/65de6-vp158) in "
    "$RM_DATA_DIR"
)


def cub200(
    folder: Path,
    *,
    size: Annotated[int, "size >= 8"] = 224,
    smallest_area: Annotated[float, "0 < smallest_area <= 1"] = 0.5,
    complete: bool = True,
) -> Dataset:
    """5,994 training and 5,794 test pictures of 200 classes. Training: shorter side 256/224 size,
    a random part as size x size (bilinear), mirrored half of the time; evaluation: the middle.

    smallest_area   of the part
    complete        whether all of them must be there
    """
    from rm.input.image_files import crop_transform, evaluation_transform

    place = folder / _FOLDER
    lists = {
        name: {key: value for key, value, *_ in read_pairs(place / f"{name}.txt", "cub200", _HINT)}
        for name in ("images", "image_class_labels", "train_test_split")
    }
    numbers = sorted(lists["images"], key=int)
    for name in ("image_class_labels", "train_test_split"):
        check_count(
            len(lists[name].keys() & set(numbers)), len(numbers), "cub200",
            f"of the pictures of images.txt in {name}.txt", _HINT,
        )  # fmt: skip
    kinds = sorted({int(kind) for kind in lists["image_class_labels"].values()})
    splits = []
    for flag, count, transform in (
        ("1", 5994, crop_transform(size, smallest_area=smallest_area, shorter_side=True)),
        ("0", 5794, evaluation_transform(size)),
    ):
        mine = [number for number in numbers if lists["train_test_split"][number] == flag]
        expected = count if complete else None
        check_count(len(mine), expected, "cub200", f"pictures of split {flag}", _HINT)
        names = [lists["images"][number] for number in mine]
        check_files(place / "images", names, "cub200", _HINT)
        labels = [kinds.index(int(lists["image_class_labels"][number])) for number in mine]
        split = listed(place / "images", names, np.array(labels, dtype=np.int64), transform)
        splits.append(split)
    return of_pictures(splits[0], splits[1], len(kinds))
