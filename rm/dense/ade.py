"""ADE20K's pictures with their label maps as samples for a segmentation network (Zhou et al., CVPR
2017; the 150 classes of SceneParse150).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.random import RandomState

from rm.datasets import AnnotatedSplit, DataError
from rm.dense.images import read_image, read_labels
from rm.dense.models import Sample
from rm.dense.transforms import Pixels, crop_box, distort, fit, resize, resize_labels

CLASSES = 150
_MOST_OF_ONE_CLASS = 0.75
_LEAST_SCALE, _MOST_SCALE = 0.5, 2.0


@dataclass(frozen=True)
class ScenePictures:
    """The reader of a split: `reader(position, seed)` -> Sample.

    names      of the files, without their endings
    training   resized by a random factor, cropped, mirrored half of the time, in other colours,
               with its labels; else the whole picture without them
    """

    images: Path
    annotations: Path
    names: Sequence[str]
    short_side: int
    long_side: int
    crop: int
    training: bool

    def __call__(self, position: int, seed: int) -> Sample:
        image = read_image(self.images / f"{self.names[position]}.jpg")
        before = (int(image.shape[0]), int(image.shape[1]))
        draw = RandomState(seed % 2**32)
        short, long = self.short_side, self.long_side
        labels = None
        if self.training:
            labels = self.labels(position)
            if labels.shape != before:
                raise DataError(
                    f"{self.annotations / self.names[position]}.png is {labels.shape[1]} x "
                    f"{labels.shape[0]} pixels, its picture {before[1]} x {before[0]}"
                )
            factor = draw.random_sample() * (_MOST_SCALE - _LEAST_SCALE) + _LEAST_SCALE
            short, long = int(short * factor), int(long * factor)
        size = fit(*before, short, long)
        image = resize(image, *size)
        flip = False
        if labels is not None:
            image, labels, flip = self._augmented(image, resize_labels(labels, *size), draw)
        after = (int(image.shape[0]), int(image.shape[1]))
        sample: Sample = {
            "image": torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))),
            "meta": self._meta(position, before, after, size, flip),
        }
        if labels is not None:
            sample["labels"] = torch.from_numpy(labels.copy())
        return sample

    def labels(self, position: int) -> Pixels:
        """(H, W), the class of each pixel; 255: none of them."""
        path = self.annotations / f"{self.names[position]}.png"
        labels = read_labels(path)
        if labels.max(initial=0) > CLASSES:
            raise DataError(f"ade20k: {path} has label {labels.max()}; there are {CLASSES}")
        return labels - np.uint8(1)  # 0 is "other", and becomes 255

    def _augmented(
        self, image: Pixels, labels: Pixels, draw: RandomState
    ) -> tuple[Pixels, Pixels, bool]:
        box = crop_box(labels, self.crop, _MOST_OF_ONE_CLASS, draw)
        image, labels = image[box], labels[box]
        flip = bool(draw.random_sample() < 0.5)
        if flip:
            image, labels = image[:, ::-1], labels[:, ::-1]
        return distort(np.ascontiguousarray(image), draw), labels, flip

    def _meta(
        self,
        position: int,
        before: tuple[int, int],
        after: tuple[int, int],
        size: tuple[int, int],
        flip: bool,
    ) -> dict[str, Any]:
        # A prediction is not to be mirrored back: pictures are mirrored in training only.
        return {
            "img_id": position,
            "img_path": str(self.images / f"{self.names[position]}.jpg"),
            "ori_shape": before,
            "img_shape": after,
            "pad_shape": after,
            "scale_factor": (size[1] / before[1], size[0] / before[0]),
            "flip": flip,
            "flip_direction": "horizontal" if flip else None,
        }


def scene_split(
    place: Path, name: str, short_side: int, long_side: int, crop: int
) -> AnnotatedSplit:
    """`training` or `validation` of the ADE20K in a folder."""
    images, annotations = place / "images" / name, place / "annotations" / name
    names, training = read_names(images, annotations), name == "training"
    reader = ScenePictures(images, annotations, names, short_side, long_side, crop, training)
    return AnnotatedSplit(reader, np.arange(len(names)))


def read_names(images: Path, annotations: Path) -> list[str]:
    """The names of the pictures, in order; DataError where there are none, or one has no map."""
    names = sorted(path.stem for path in images.glob("*.jpg"))
    if not names:
        raise DataError(
            f"ade20k: there are no pictures in {images}; put ADEChallengeData2016 there "
            "(images/{training,validation}, annotations/...), or set RM_DATA_DIR"
        )
    missing = sorted(set(names) - {path.stem for path in annotations.glob("*.png")})
    if missing:
        raise DataError(f"ade20k: {annotations / missing[0]}.png is missing")
    return names
