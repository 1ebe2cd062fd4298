"""CIFAR-10 and CIFAR-100 through torchvision: downloaded when missing, every file checked by its
md5.
"""

import fcntl
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rm.datasets import DataError, Dataset, InMemorySplit


def cifar10(folder: Path) -> Dataset:
    """50,000 training and 10,000 test images of 10 classes, 32x32 RGB (Krizhevsky 2009)."""
    return _cifar("CIFAR10", "cifar-10-batches-py", folder, classes=10)


def cifar100(folder: Path) -> Dataset:
    """50,000 training and 10,000 test images of 100 classes, 32x32 RGB (Krizhevsky 2009)."""
    return _cifar("CIFAR100", "cifar-100-python", folder, classes=100)


def _cifar(kind: str, inside: str, folder: Path, classes: int) -> Dataset:
    from torchvision import datasets

    reader = getattr(datasets, kind)
    return Dataset(
        train=_split(_read(reader, kind, inside, folder, train=True)),
        test=_split(_read(reader, kind, inside, folder, train=False)),
        classes=classes,
        mean=(0.4914, 0.4822, 0.4465),  # the released code normalises both sets with these
        std=(0.2023, 0.1994, 0.2010),
        padding=4,
        flip=True,
    )


def _read(reader: Any, kind: str, inside: str, folder: Path, train: bool) -> Any:
    try:
        return reader(str(folder), train=train, download=False)
    except RuntimeError:
        pass  # missing or damaged: torchvision says the same of both
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f".{inside}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # one worker downloads, the others find it done
            return reader(str(folder), train=train, download=True)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"{kind}: not found, or damaged, in {folder / inside}, and the download failed "
            f"({error}). Put the python version of "
            f"the data set there (the folder {inside} from its archive), or set RM_DATA_DIR to "
            f"the folder that holds {inside}"
        ) from None


def _split(data: Any) -> InMemorySplit:
    return InMemorySplit(
        torch.from_numpy(np.ascontiguousarray(data.data)),
        torch.tensor(data.targets, dtype=torch.int64),
    )
