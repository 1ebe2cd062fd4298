"""COCO's annotations (Lin et al., ECCV 2014), and pictures with them as samples for a detector."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.random import RandomState
from numpy.typing import NDArray

from rm.datasets import AnnotatedSplit, DataError
from rm.dense.coco_file import CATEGORIES as CATEGORIES
from rm.dense.coco_file import read_annotations
from rm.dense.evaluation import average_precision
from rm.dense.images import read_image, read_labels
from rm.dense.models import Sample
from rm.dense.transforms import fit, flip_boxes, resize, resize_boxes, resize_labels

SMALLEST = 32
"""Pixels of the shorter side of a picture to be trained on, as mmdet has it."""


class Picture(NamedTuple):
    """A picture and its objects, as JSON: a million small lists would weigh gigabytes."""

    number: int
    file: str
    height: int
    width: int
    objects: bytes


@dataclass(frozen=True)
class CocoPictures:
    """The reader of a split: `reader(position, seed)` -> Sample.

    folder, stuff   where the pictures and the maps of stuff are
    training        mirrored half of the time, and with annotations
    masks, labels   whether samples have masks of the objects, and maps of stuff and things
    categories      a class is a position in it
    sides           in training, shorter sides of which one is drawn; else it is short_side
    """

    folder: Path
    annotations: Path
    stuff: Path
    pictures: Sequence[Picture]
    short_side: int
    long_side: int
    training: bool
    masks: bool = False
    labels: bool = False
    categories: Sequence[int] = CATEGORIES
    sides: tuple[int, ...] = ()

    def __call__(self, position: int, seed: int) -> Sample:
        picture = self.pictures[position]
        image = read_image(self.folder / picture.file)
        before = (int(image.shape[0]), int(image.shape[1]))
        if before != (picture.height, picture.width):
            raise DataError(
                f"{self.folder / picture.file} is {before[1]} x {before[0]} pixels, not "
                f"{picture.width} x {picture.height} as {self.annotations} says"
            )
        draw = RandomState(seed % 2**32)
        flip = self.training and draw.random_sample() < 0.5
        side = self.sides[draw.randint(len(self.sides))] if self.sides else self.short_side
        after = fit(*before, side, self.long_side)
        image = resize(image, *after)
        sample: Sample = {
            "image": _pixels(image[:, ::-1] if flip else image),
            "meta": _meta(picture, self.folder, after, flip),
        }
        if self.training:
            self._annotate(sample, picture, after, flip)
        return sample

    def _annotate(
        self, sample: Sample, picture: Picture, after: tuple[int, int], flip: bool
    ) -> None:
        objects, before = json.loads(picture.objects), (picture.height, picture.width)
        boxes = np.array([each["bbox"] for each in objects], np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        boxes = resize_boxes(boxes, before, after)
        classes = [self.categories.index(each["category_id"]) for each in objects]
        crowds = [bool(each["iscrowd"]) for each in objects]
        sample["boxes"] = torch.from_numpy(flip_boxes(boxes, after[1]) if flip else boxes)
        sample["classes"] = torch.tensor(classes, dtype=torch.int64)
        sample["crowds"] = torch.tensor(crowds, dtype=torch.bool)
        # Tensors, not arrays: arrays would go through a pipe, whose full end keeps a reading
        # process alive after its trainer was killed.
        if self.masks:
            masks = np.zeros((len(objects), *after), np.uint8)
            for mask, each in zip(masks, objects, strict=True):
                whole = resize_labels(self._mask(each["segmentation"], picture), *after)
                mask[:] = whole[:, ::-1] if flip else whole
            sample["masks"] = torch.from_numpy(masks)
        if self.labels:
            labels = read_labels(self.stuff / Path(picture.file).with_suffix(".png"))
            labels = resize_labels(labels, *after)
            sample["labels"] = torch.from_numpy((labels[:, ::-1] if flip else labels).copy())

    def _mask(self, segmentation: Any, picture: Picture) -> NDArray[np.uint8]:
        """(H, W) of an object; DataError where it is none of this picture's size."""
        size = (picture.height, picture.width)
        try:
            found = _decoded(segmentation, *size)
        except Exception as error:  # pycocotools raises that, too
            why = f"{type(error).__name__}: {error}"
            raise DataError(f"{self._about_object(picture)} cannot be read: {why}") from None
        if found.shape != size:
            raise DataError(f"{self._about_object(picture)} is {found.shape}, not {size}")
        return found

    def _about_object(self, picture: Picture) -> str:
        return f"coco: {self.annotations}: the segmentation of an object in {picture.file}"

    def precision(self, found: Mapping[int, Mapping[str, Any]], masks: bool) -> dict[str, float]:
        """The metrics of what a detector found: picture's id -> instances."""
        return average_precision(self.annotations, found, masks)

    @property
    def wide(self) -> NDArray[np.bool_]:
        """Of each picture, whether it is wider than high: batches are of one kind."""
        return np.array([picture.width > picture.height for picture in self.pictures], bool)


def coco_split(place: Path, name: str, short_side: int, long_side: int) -> AnnotatedSplit:
    """`train` or `val` of the COCO 2017 in a folder."""
    path = place / "annotations" / f"instances_{name}2017.json"
    pictures = read_pictures(path, name == "train")
    reader = CocoPictures(
        place / f"{name}2017",
        path,
        place / "stuffthingmaps" / f"{name}2017",
        pictures,
        short_side,
        long_side,
        training=name == "train",
    )
    return AnnotatedSplit(reader, np.arange(len(pictures)))


def _meta(picture: Picture, folder: Path, after: tuple[int, int], flip: bool) -> dict[str, Any]:
    return {
        "img_id": picture.number,
        "img_path": str(folder / picture.file),
        "ori_shape": (picture.height, picture.width),
        "img_shape": after,
        "scale_factor": (after[1] / picture.width, after[0] / picture.height),
        "flip": flip,
        "flip_direction": "horizontal" if flip else None,
    }


def _pixels(image: NDArray[np.uint8]) -> torch.Tensor:
    """(H, W, 3) -> (3, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def _decoded(segmentation: Any, height: int, width: int) -> NDArray[np.uint8]:
    """Polygons or run lengths -> (H, W) of 0 and 1."""
    from pycocotools import mask

    if isinstance(segmentation, list):
        parts = [np.array(part) for part in segmentation if len(part) % 2 == 0 and len(part) >= 6]
        if not parts:
            return np.zeros((height, width), np.uint8)
        segmentation = mask.merge(mask.frPyObjects(parts, height, width))
    elif isinstance(segmentation["counts"], list):
        segmentation = mask.frPyObjects(segmentation, height, width)
    return np.asarray(mask.decode(segmentation), dtype=np.uint8)


def read_pictures(path: Path, training: bool) -> list[Picture]:
    """The pictures of an annotation file; for training those with objects, large enough, alone.
    DataError for an annotation that cannot be one of COCO's.
    """
    try:
        return _read_pictures(path, training)
    except (KeyError, TypeError, ValueError) as error:
        lacks = isinstance(error, KeyError)
        what = f"lacks {error}" if lacks else f"has a value of the wrong kind: {error}"
        raise DataError(f"coco: {path}: an image or annotation {what}") from None


def _read_pictures(path: Path, training: bool) -> list[Picture]:
    data = read_annotations(path)
    images = {image["id"]: image for image in data["images"]}
    objects: dict[int, list[dict[str, Any]]] = {number: [] for number in images}
    annotated: set[int] = set()
    for annotation in data["annotations"]:
        image = images.get(annotation["image_id"])
        if image is None:
            raise DataError(_about(path, annotation, "is of a picture that is not listed"))
        if annotation["category_id"] not in CATEGORIES:
            raise DataError(
                _about(path, annotation, f"has category {annotation['category_id']}, which is "
                       "none of COCO's 80")
            )  # fmt: skip
        annotated.add(image["id"])
        if _is_object(path, annotation, image):
            kept = {
                "bbox": annotation["bbox"],
                "category_id": annotation["category_id"],
                "iscrowd": annotation.get("iscrowd", 0),
                "segmentation": annotation.get("segmentation", []),
            }
            objects[image["id"]].append(kept)
    return [
        Picture(
            number,
            image["file_name"],
            image["height"],
            image["width"],
            json.dumps(objects[number]).encode() if training else b"[]",
        )
        for number, image in images.items()
        if not training
        or (number in annotated and min(image["height"], image["width"]) >= SMALLEST)
    ]


def _is_object(path: Path, annotation: Mapping[str, Any], image: Mapping[str, Any]) -> bool:
    """Whether it is one to be trained on: a pixel at least, as mmdet has it."""
    x, y, w, h = annotation["bbox"]
    inside = x < image["width"] and y < image["height"] and x + w > 0 and y + h > 0
    if w >= 1 and h >= 1 and not inside:
        raise DataError(
            _about(path, annotation, f"has the box {annotation['bbox']}, which is outside of "
                   f"{image['file_name']} ({image['width']} x {image['height']})")
        )  # fmt: skip
    return bool(w >= 1 and h >= 1 and annotation.get("area", w * h) > 0)


def _about(path: Path, annotation: Mapping[str, Any], what: str) -> str:
    return f"coco: {path}: annotation {annotation.get('id')} {what}"
