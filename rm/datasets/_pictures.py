"""Data sets whose pictures are listed in files, or lie in one array: splits of them, and what is
said where one is missing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rm.datasets import DataError, Dataset, DiskSplit

Interpolation = Literal["bilinear", "bicubic"]


@dataclass(frozen=True)
class Listed:
    """Picture i is the file `folder`/names[i]; a source of bytes for other processes."""

    folder: Path
    names: tuple[str, ...]

    def read(self, image: int) -> bytes:
        return (self.folder / self.names[image]).read_bytes()

    def name(self, image: int) -> str:
        return str(self.folder / self.names[image])


@dataclass(frozen=True)
class ArrayReader:
    """The reader of a `DiskSplit` whose pictures lie in memory: (N, 3, H, W) uint8, which the
    reading processes share, through `transform`.
    """

    pictures: Tensor
    transform: Any

    def __call__(self, image: int, seed: int) -> Tensor:
        """(H, W, 3) uint8, augmented as `seed` alone decides."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            picture: Tensor = self.transform(self.pictures[image])
        return picture.permute(1, 2, 0)


def listed(
    folder: Path, names: Sequence[str], labels: NDArray[np.int64], transform: Any
) -> DiskSplit:
    """A split of files; `names` relative to the folder, `labels` (N,)."""
    from rm.input.image_files import ImageReader

    reader = ImageReader(Listed(folder, tuple(names)), transform)
    return DiskSplit(reader, np.arange(len(names)), torch.from_numpy(np.asarray(labels)))


def in_memory(pictures: Tensor, labels: Tensor, transform: Any) -> DiskSplit:
    """A split of an array (N, 3, H, W) uint8 that is augmented as pictures are."""
    return DiskSplit(ArrayReader(pictures, transform), np.arange(len(pictures)), labels)


def of_pictures(train: DiskSplit, test: DiskSplit, classes: int) -> Dataset:
    """A data set of RGB pictures, normalised as ImageNet's; the transforms crop and mirror."""
    from rm.input.image_files import MEAN, STD

    return Dataset(train, test, classes, MEAN, STD, padding=0, flip=True)


def read_pairs(path: Path, kind: str, hint: str) -> list[list[str]]:
    """The lines of a list, each split at white space; DataError where it is missing or not one."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = "there is none" if isinstance(error, FileNotFoundError) else str(error)
        raise DataError(f"{kind}: expected the list {path}: {reason}. {hint}") from None
    pairs = [line.split() for line in lines if line.strip()]
    if short := [n for n, line in enumerate(lines, 1) if line.strip() and len(line.split()) < 2]:
        raise DataError(
            f"{kind}: {path}:{short[0]}: expected two columns, found {lines[short[0] - 1]!r}. "
            f"{hint}"
        )
    return pairs


def check_files(folder: Path, names: Sequence[str], kind: str, hint: str) -> None:
    """DataError with the first of the files that are missing."""
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise DataError(
            f"{kind}: {len(missing):,} of {len(names):,} pictures are missing in {folder}, "
            f"{missing[0]} for one: unpack them again. {hint}"
        )


def check_count(found: int, expected: int | None, kind: str, what: str, hint: str) -> None:
    """DataError where there are not as many as there should be."""
    if expected is not None and found != expected:
        raise DataError(f"{kind}: expected {expected:,} {what}, found {found:,}. {hint}")
