"""Data sets: one function each, `name(folder, *, option=default, ...) -> Dataset`; its name is its
name in a spec.

Small images (`InMemorySplit`) live on the training device as uint8, so there is no DataLoader:
`rm/input/device_images.py` gathers a batch there. Others (`DiskSplit`) stay on disk:
`rm/input/stream.py` has processes read and augment them while the device computes. Those with
boxes, masks or label maps are an `AnnotatedSplit`.
"""

import functools
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class DataError(RuntimeError):
    """A data set is missing, incomplete, or not what it should be; the message says where and what
    to do.
    """


@dataclass(frozen=True)
class InMemorySplit:
    """images (N, H, W, C) uint8, labels (N,) int64."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, count: int | None) -> "InMemorySplit":
        """`count` images drawn once and for all (the same for every trial and seed), in their
        original order.
        """
        chosen = _chosen(len(self), count)
        return self if chosen is None else self.take(chosen)

    def take(self, positions: NDArray[np.int64]) -> "InMemorySplit":
        """The images at these positions, in their original order."""
        positions = np.sort(positions)
        return InMemorySplit(self.images[positions], self.labels[positions])

    def to(self, device: torch.device) -> "InMemorySplit":
        return InMemorySplit(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class DiskSplit:
    """Images on disk, read each time they are shown.

    reader   `reader(image, seed)` -> (H, W, C) of 0..255, uint8 or, where colours are changed,
             float16; augmented as `seed` alone decides, in another process; raises DataError
    index    (N,) int64, which of the reader's images these are
    labels   (N,) int64
    """

    reader: Callable[[int, int], Tensor]
    index: NDArray[np.int64]
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, count: int | None) -> "DiskSplit":
        """`count` images drawn once and for all, as `InMemorySplit.subset` draws them."""
        chosen = _chosen(len(self), count)
        return (
            self
            if chosen is None
            else DiskSplit(self.reader, self.index[chosen], self.labels[chosen])
        )


@dataclass(frozen=True)
class AnnotatedSplit:
    """Pictures on disk with boxes, masks or label maps.

    reader   `reader(position, seed)` -> a mapping of tensors and plain values, augmented as `seed`
             alone decides, in another process; raises DataError
    index    (N,) int64, which of the reader's pictures these are
    """

    reader: Callable[[int, int], Mapping[str, Any]]
    index: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.index)

    def subset(self, count: int | None) -> Self:
        """`count` pictures, as `InMemorySplit.subset` draws them."""
        chosen = _chosen(len(self), count)
        return self if chosen is None else replace(self, index=self.index[chosen])


def _chosen(length: int, count: int | None) -> NDArray[np.int64] | None:
    """The positions of `count` out of `length`, in order; None for all."""
    if count is None or count >= length:
        return None
    return np.sort(np.random.default_rng(0).permutation(length)[:count])


Split = InMemorySplit | DiskSplit | AnnotatedSplit


@dataclass(frozen=True)
class Dataset:
    """Two splits and how they are normalised and augmented.

        labelled    the labelled training pictures, where `train` has no labels (all -1)

        mean, std   per channel, of values in [0, 1]
        padding     pixels on each side before the random crop back to (H, W)
        border      what these are: zeros, or the image mirrored at its edge
        flip        whether a random half of the images is mirrored
    Both are for an `InMemorySplit`; the reader of a `DiskSplit` does as much itself.
    """

    train: Split
    test: Split
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    padding: int
    flip: bool
    border: Literal["zeros", "reflect"] = "zeros"
    labelled: Split | None = None

    @property
    def channels(self) -> int:
        return len(self.mean)


def data_dir() -> Path:
    """`$RM_DATA_DIR`, else `~/.cache/recursivemix`."""
    asked = Path(os.environ.get("RM_DATA_DIR") or "~/.cache/recursivemix")
    try:
        return asked.expanduser()
    except RuntimeError:  # no HOME, and a user whom this machine does not know
        return Path(tempfile.gettempdir(), ".cache", "recursivemix")


@functools.lru_cache(maxsize=2)
def _whole(name: str, options: str) -> Dataset:
    """A warm worker reads each data set once; `options` as JSON, which can be a key."""
    from rm import registry

    dataset: Dataset = registry.load("dataset", name)(data_dir(), **json.loads(options))
    return dataset


def load(
    name: str,
    options: dict[str, object],
    *,
    limit: Annotated[int | None, "limit >= 1"] = None,
    test_limit: Annotated[int | None, "test_limit >= 1"] = None,
    held_out: Annotated[int, "held_out >= 0"] = 0,
) -> Dataset:
    """The data set of that name with its own options.

    limit        train on this many images only, the same ones for every seed
    test_limit   test on this many images only
    held_out     take this many images out of the training set, the same ones for every seed, and
                 test on them: a search for hyper-parameters then never sees the test set
    """
    whole = _whole(name, json.dumps(options, sort_keys=True))
    if held_out:
        whole = _validating(name, whole, held_out)
    return replace(whole, train=whole.train.subset(limit), test=whole.test.subset(test_limit))


def _validating(name: str, whole: Dataset, held_out: int) -> Dataset:
    """The training split in two, the second one in the test split's place."""
    if not isinstance(whole.train, InMemorySplit):
        raise DataError(
            f"{name}: held_out is for data sets that are kept on the device, {name} is read from "
            "disk"
        )
    if held_out >= len(whole.train):
        raise DataError(
            f"{name}: held_out is {held_out}, but there are only {len(whole.train)} training "
            "images"
        )
    order = np.random.default_rng(1).permutation(len(whole.train))
    return replace(
        whole, train=whole.train.take(order[held_out:]), test=whole.train.take(order[:held_out])
    )
