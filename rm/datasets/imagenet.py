"""ImageNet, or any set of pictures in a `train/<class>/`, `val/<class>/` tree, read from disk
while the device computes.

Where `train` and `val` hold tars instead (`python -m rm.input.shards SOURCE TARGET` writes them),
the same pictures come from those.
"""

import os
from pathlib import Path
from typing import Annotated

import numpy as np
import torch

from rm.datasets import DataError, Dataset, DiskSplit
from rm.input.shards import Shards, Table, Tree, read_table, shard_files

_ENDINGS = (".jpeg", ".jpg", ".png")


def imagenet(
    folder: Path,
    *,
    size: Annotated[int, "size >= 8"] = 224,
    color_jitter: Annotated[float, "0 <= color_jitter <= 1"] = 0.4,
    lighting: Annotated[float, "lighting >= 0"] = 0.1,
    random_erasing: Annotated[float, "0 <= random_erasing <= 1"] = 0.0,
    train_images: Annotated[int | None, "train_images >= 1"] = None,
    val_images: Annotated[int | None, "val_images >= 1"] = None,
    root: Annotated[str, "len(root) > 0"] = "imagenet",
) -> Dataset:
    """Pictures of `folder`/`root`, one class a folder, classes numbered in the order of their
    names (Deng et al., 2009).

    size                      pixels of a side, in training (random resized crop) and evaluation
                              (centre of 256/224 size)
    color_jitter, lighting    strengths; the defaults are the CutMix recipe's, 0 is off
    random_erasing            probability; PVTv2's recipe has 0.25 and no lighting
    train_images, val_images  how many there must be, to notice half a data set (ImageNet-1k:
                              1,281,167 and 50,000)

    DataError where the tree is not as described.
    """
    from rm.input.image_files import MEAN, STD, evaluation_transform, training_transform

    place = folder / root
    train, val = _tables(place).values()
    for name, table, count in (("train", train, train_images), ("val", val, val_images)):
        if count is not None and count != len(table):
            raise DataError(
                f"imagenet: expected {count:,} images in {place / name}, found {len(table):,}"
            )
    return Dataset(
        train=_split(
            place / "train",
            train,
            training_transform(size, color_jitter, lighting, random_erasing),
        ),
        test=_split(place / "val", val, evaluation_transform(size)),
        classes=len(train.classes),
        mean=MEAN,
        std=STD,
        padding=0,  # the transforms crop and mirror
        flip=True,
    )


def _tables(place: Path) -> dict[str, Table]:
    """The pictures of `place`/train and `place`/val; DataError where they are not two halves of
    one data set.
    """
    tables = {split: _listing(place, split) for split in ("train", "val")}
    _same_classes(place, tables["train"], tables["val"])
    return tables


def _split(folder: Path, table: Table, transform: object) -> DiskSplit:
    from rm.input.image_files import ImageReader

    packed = table.places is not None
    source = Shards(folder, table, shard_files(folder)) if packed else Tree(folder, table)
    return DiskSplit(
        ImageReader(source, transform), np.arange(len(table)), torch.from_numpy(table.labels)
    )


def _listing(place: Path, split: str) -> Table:
    """The pictures of one split, sorted by class and name; DataError where there is none."""
    folder = place / split
    if not folder.is_dir():
        there = (
            "does not exist"
            if not place.is_dir()
            else f"holds {_some(sorted(p.name for p in place.iterdir()))}"
        )
        raise DataError(
            f"imagenet: expected {place}/train/<class>/*.JPEG and {place}/val/<class>/*.JPEG, but "
            f"there is no {folder}; "
            f"{place} {there}. Put the data set there (a link will do), or set RM_DATA_DIR to the "
            "folder that holds "
            f"{place.name}, or the option root to the folder's name"
        )
    if shard_files(folder):
        return read_table(folder)
    with os.scandir(folder) as entries:
        classes = sorted(entry.name for entry in entries if entry.is_dir())
    if not classes:
        flat = sum(1 for path in folder.iterdir() if path.name.lower().endswith(_ENDINGS))
        found = (
            f"{flat} images without a class: move each into the folder of its class"
            if flat
            else "none"
        )
        raise DataError(
            f"imagenet: expected a folder for each class in {folder}, {folder}/<class>/*.JPEG, "
            f"found {found}"
        )
    names = [_pictures(folder / name) for name in classes]
    if empty := [name for name, files in zip(classes, names, strict=True) if not files]:
        raise DataError(
            f"imagenet: expected *.JPEG in every class folder of {folder}, found none in "
            f"{len(empty)} of {len(classes)}: "
            f"{_some(empty)}; unpack them again"
        )
    labels = np.repeat(np.arange(len(classes)), [len(files) for files in names])
    return Table(tuple(classes), labels, np.array([name for files in names for name in files]))


def _pictures(folder: Path) -> list[bytes]:
    with os.scandir(folder) as entries:
        return sorted(
            os.fsencode(entry.name) for entry in entries if entry.name.lower().endswith(_ENDINGS)
        )


def _same_classes(place: Path, train: Table, val: Table) -> None:
    for here, there, name, other in ((train, val, "train", "val"), (val, train, "val", "train")):
        if missing := sorted(set(here.classes) - set(there.classes)):
            raise DataError(
                f"imagenet: expected the same class folders in {place}/train and {place}/val; "
                f"{len(missing)} of "
                f"{place / name} are missing in {place / other}: {_some(missing)}"
            )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "") or "nothing"
