"""ImageNet, and as `image_folder` any set of pictures in a `train/<class>/`, `val/<class>/` tree,
read from disk while the device computes.

Where `train` and `val` hold tars instead (`python -m rm.input.shards SOURCE TARGET` writes them),
the same pictures come from those.
"""

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch

from rm.datasets import DataError, Dataset, DiskSplit
from rm.datasets._pictures import of_pictures
from rm.input.shards import Shards, Table, Tree, read_tables, shard_files

LOOKS_FOR = ("{root}/train", "{root}/val")


def imagenet(
    folder: Path,
    *,
    size: Annotated[int, "size >= 8"] = 224,
    color_jitter: Annotated[float, "0 <= color_jitter <= 1"] = 0.4,
    lighting: Annotated[float, "lighting >= 0"] = 0.1,
    random_erasing: Annotated[float, "0 <= random_erasing <= 1"] = 0.0,
    interpolation: Literal["bilinear", "bicubic"] = "bilinear",
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
    interpolation             of crops and of evaluated images
    train_images, val_images  how many there must be, to notice half a data set (ImageNet-1k:
                              1,281,167 and 50,000)

    DataError where the tree is not as described.
    """
    from rm.input.image_files import evaluation_transform, training_transform

    place = folder / root
    train, val = read_tables(place).values()
    for name, table, count in (("train", train, train_images), ("val", val, val_images)):
        if count is not None and count != len(table):
            raise DataError(
                f"imagenet: expected {count:,} images in {place / name}, found {len(table):,}"
            )
    augment = training_transform(size, color_jitter, lighting, random_erasing, interpolation)
    return of_pictures(
        _split(place / "train", train, augment),
        _split(place / "val", val, evaluation_transform(size, interpolation)),
        len(train.classes),
    )


def image_folder(
    folder: Path,
    *,
    root: Annotated[str, "len(root) > 0"] = "pictures",
    size: Annotated[int, "size >= 8"] = 224,
    smallest_area: Annotated[float, "0 < smallest_area <= 1"] = 0.08,
    shorter_side: bool = False,
    interpolation: Literal["bilinear", "bicubic"] = "bilinear",
) -> Dataset:
    """Any pictures of yours: `folder`/`root`/{train,val}/<class>/*.{jpg,jpeg,png}, or tars made of
    such a tree; classes numbered in the order of their names. Training: a random part as size x
    size, mirrored half of the time; evaluation: the middle.

    smallest_area   of the part
    shorter_side    the part is of the picture resized to a shorter side of 256/224 size, as CUB's
    interpolation   of both sizes

    DataError where the tree is not as described.
    """
    from rm.input.image_files import crop_transform, evaluation_transform

    place = folder / root
    train, val = read_tables(place).values()
    crop = crop_transform(
        size, interpolation=interpolation, smallest_area=smallest_area, shorter_side=shorter_side
    )
    return of_pictures(
        _split(place / "train", train, crop),
        _split(place / "val", val, evaluation_transform(size, interpolation)),
        len(train.classes),
    )


def _split(folder: Path, table: Table, transform: object) -> DiskSplit:
    from rm.input.image_files import ImageReader

    packed = table.places is not None
    source = Shards(folder, table, shard_files(folder)) if packed else Tree(folder, table)
    return DiskSplit(
        ImageReader(source, transform), np.arange(len(table)), torch.from_numpy(table.labels)
    )
