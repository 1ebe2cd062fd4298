"""CIFAR-10 and CIFAR-100 through torchvision: downloaded when missing, every file checked by its
md5.
"""

import fcntl
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from rm.datasets import DataError, Dataset, InMemorySplit

_NORMALISATIONS = {  # mean, std
    "released": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cutmix": ((0.4914, 0.4824, 0.4467), (0.2471, 0.2435, 0.2616)),
}


def cifar10(
    folder: Path,
    *,
    normalisation: Literal["released", "cutmix"] = "released",
    padding: Literal["zeros", "reflect"] = "zeros",
) -> Dataset:
    """50,000 training and 10,000 test images of 10 classes, 32x32 RGB (Krizhevsky 2009).

    normalisation   by mean and deviation as in RM's released code, the same for both sets, whose
                    deviation is that of an image's mean; or as in clovaai/CutMix-PyTorch: that of
                    all pixels
    padding         what lies around an image before its random crop: zeros, or its mirror image
    """
    data = _cifar("CIFAR10", "cifar-10-batches-py", folder, 10, normalisation)
    return replace(data, border=padding)


def cifar100(
    folder: Path,
    *,
    normalisation: Literal["released", "cutmix"] = "released",
    padding: Literal["zeros", "reflect"] = "zeros",
) -> Dataset:
    """50,000 training and 10,000 test images of 100 classes, 32x32 RGB (Krizhevsky 2009);
    normalisation and padding as for `cifar10`.
    """
    data = _cifar("CIFAR100", "cifar-100-python", folder, 100, normalisation)
    return replace(data, border=padding)


def _cifar(kind: str, inside: str, folder: Path, classes: int, normalisation: str) -> Dataset:
    from torchvision import datasets

    reader = getattr(datasets, kind)
    mean, std = _NORMALISATIONS[normalisation]
    return Dataset(
        train=_split(_read(reader, kind, inside, folder, train=True)),
        test=_split(_read(reader, kind, inside, folder, train=False)),
        classes=classes,
        mean=mean,
        std=std,
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
