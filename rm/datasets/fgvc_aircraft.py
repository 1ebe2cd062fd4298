"""FGVC-Aircraft: 100 variants of aircraft (Maji et al., arXiv 1306.5151), through torchvision."""

from pathlib import Path
from typing import Annotated

import numpy as np

from rm.datasets import DataError, Dataset
from rm.datasets._pictures import check_count, check_files, listed, of_pictures

LOOKS_FOR = ("fgvc-aircraft-2013b",)
_HINT = (
    "Unpack fgvc-aircraft-2013b.tar.gz (2.6 GiB, "
    "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/) in $RM_DATA_DIR"
)


def fgvc_aircraft(
    folder: Path,
    *,
    size: Annotated[int, "size >= 8"] = 224,
    smallest_area: Annotated[float, "0 < smallest_area <= 1"] = 0.5,
    complete: bool = True,
) -> Dataset:
    """6,667 training (its training and validation part) and 3,333 test pictures. Augmented as
    `cub200`; the banner of 20 px below each picture is not cut off.

    smallest_area   of the random part
    complete        whether all of them must be there
    """
    from torchvision.datasets import FGVCAircraft

    from rm.input.image_files import crop_transform, evaluation_transform

    place = folder / "fgvc-aircraft-2013b"
    splits, classes = [], 0
    for name, count, transform in (
        ("trainval", 6667, crop_transform(size, smallest_area=smallest_area, shorter_side=True)),
        ("test", 3333, evaluation_transform(size)),
    ):
        try:
            found = FGVCAircraft(str(folder), name, "variant", download=False)
        except (RuntimeError, OSError, ValueError, KeyError) as error:
            raise DataError(f"fgvc_aircraft: not whole in {place} ({error}). {_HINT}") from None
        names = [str(Path(file).relative_to(place)) for file in found._image_files]
        what = f"pictures in images_variant_{name}.txt"
        check_count(len(names), count if complete else None, "fgvc_aircraft", what, _HINT)
        check_files(place, names, "fgvc_aircraft", _HINT)
        labels = np.array(found._labels, dtype=np.int64)
        splits.append(listed(place, names, labels, transform))
        classes = len(found.classes)
    return of_pictures(splits[0], splits[1], classes)
