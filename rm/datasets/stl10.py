"""STL-10 (Coates et al., AISTATS 2011) through torchvision, every file checked by its md5."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch

from rm.datasets import DataError, Dataset
from rm.datasets._pictures import in_memory, of_pictures

LOOKS_FOR = ("stl10_binary",)
_HINT = (
    "Unpack stl10_binary.tar.gz (2.5 GiB, http://ai.stanford.edu/~acoates/stl10/) in $RM_DATA_DIR"
)


def stl10(
    folder: Path,
    *,
    train: Literal["labelled", "unlabelled"] = "labelled",
    smallest_area: Annotated[float, "0 < smallest_area <= 1"] = 0.2,
) -> Dataset:
    """5,000 training and 8,000 test pictures of 10 classes, 96 px. Training: a random part as 96
    px (bicubic), mirrored half of the time; evaluation: as they are.

    train           unlabelled: its 100,000 pictures without labels (which are -1) in the training
                    set's place, which stays beside them as `labelled`
    smallest_area   of the part
    """
    from rm.input.image_files import crop_transform, whole_transform

    crop = crop_transform(96, interpolation="bicubic", smallest_area=smallest_area)
    labelled = in_memory(*_tensors(_read(folder, "train")), crop)
    tested = in_memory(*_tensors(_read(folder, "test")), whole_transform(96))
    if train == "labelled":
        return of_pictures(labelled, tested, 10)
    unlabelled = in_memory(*_tensors(_read(folder, "unlabeled")), crop)
    return replace(of_pictures(unlabelled, tested, 10), labelled=labelled)


def _read(folder: Path, split: str) -> Any:
    from torchvision.datasets import STL10

    try:
        return STL10(str(folder), split=split, download=False)
    except (RuntimeError, OSError, ValueError) as error:
        raise DataError(
            f"stl10: not found, or damaged, in {folder / 'stl10_binary'} ({error}). {_HINT}"
        ) from None


def _tensors(data: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(data.data), torch.as_tensor(data.labels, dtype=torch.int64)
