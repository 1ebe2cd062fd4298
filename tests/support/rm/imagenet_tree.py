"""A small tree of real pictures, one a class: from the ImageNet sample where it is, else made and
encoded here.
"""

from pathlib import Path

import numpy as np
import torch
from torchvision.io import write_jpeg

from tests.support.trials import ROOT

SAMPLE = ROOT.parent / "shared" / "data" / "imagenet-sample-256"
CLASSES = 12


def originals(folder: Path) -> list[Path]:
    """CLASSES JPEGs `<class>_<name>.JPEG`, not square; the last one is made and has one channel,
    which the sample lacks.
    """
    sample = sorted(SAMPLE.glob("*.JPEG"))[: CLASSES - 1]
    made = (
        [write(folder, number, channels=3) for number in range(CLASSES - 1)]
        if len(sample) < CLASSES - 1
        else sample
    )
    return [*made, write(folder, CLASSES, channels=1)]


def write(folder: Path, number: int, channels: int) -> Path:
    """A JPEG of smooth noise, 256 x 341 pixels."""
    folder.mkdir(parents=True, exist_ok=True)
    coarse = (
        np.random.default_rng(number).integers(0, 256, (1, channels, 9, 12)).astype(np.float32)
    )
    pixels = torch.nn.functional.interpolate(
        torch.from_numpy(coarse), size=(256, 341), mode="bilinear"
    )[0]
    path = folder / f"n9{number:07}_made.JPEG"
    write_jpeg(pixels.round().to(torch.uint8), str(path), quality=90)
    return path


def make_tree(place: Path) -> Path:
    """`place`/{train,val}/<class>/<file>.JPEG, links to the same pictures in both."""
    for path in originals(place.parent / "made"):
        for split in ("train", "val"):
            folder = place / split / path.name.partition("_")[0]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / path.name).symlink_to(path)
    return place
