"""PASCAL VOC's annotations and its own average precision (Everingham et al., IJCV 2010)."""

import json
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rm.datasets import AnnotatedSplit, DataError
from rm.dense.coco import CocoPictures, Picture

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip
OVERLAPS = tuple(share / 100 for share in range(50, 100, 5))
RECALLS = np.arange(0.0, 1.1, 0.1)
"""The eleven at which VOC 2007 reads precision."""
HINT = (
    "Unpack VOCtrainval_06-Nov-2007.tar, VOCtest_06-Nov-2007.tar and "
    "VOCtrainval_11-May-2012.tar (2.8 GiB, http://host.robots.ox.ac.uk/pascal/VOC/) in "
    "$RM_DATA_DIR"
)


@dataclass(frozen=True)
class VocPictures(CocoPictures):
    """A split whose classes are VOC's, judged as Detectron2 judges VOC 2007."""

    categories: Sequence[int] = range(len(CLASSES))

    def precision(
        self, found: Mapping[int, Mapping[str, Any]], masks: bool = False
    ) -> dict[str, float]:
        truth = {picture.number: json.loads(picture.objects) for picture in self.pictures}
        return voc_precision({number: truth[number] for number in found}, found)


def voc_split(
    place: Path,
    parts: Sequence[tuple[str, str]],
    count: int | None,
    sides: tuple[int, int],
    training_sides: tuple[int, ...],
) -> AnnotatedSplit:
    """Pictures of some lists (year, name of the list) in a VOCdevkit.

    count            how many there must be
    sides            the shorter and the longer one at most
    training_sides   shorter sides to draw from, of a split to train on
    """
    if not place.is_dir():
        raise DataError(f"voc: there is no {place}. {HINT}")
    files = [
        (place / f"VOC{year}", stem) for year, name in parts for stem in _list(place, year, name)
    ]
    if count is not None and len(files) != count:
        lists = ", ".join(f"VOC{year} {name}" for year, name in parts)
        raise DataError(
            f"voc: expected {count:,} pictures in {lists}, found {len(files):,}. {HINT}"
        )
    pictures = [read_annotation(n, folder, stem) for n, (folder, stem) in enumerate(files)]
    reader = VocPictures(
        place, place, place, pictures, *sides, training=bool(training_sides), sides=training_sides
    )
    return AnnotatedSplit(reader, np.arange(len(pictures)))


def _list(place: Path, year: str, name: str) -> list[str]:
    path = place / f"VOC{year}" / "ImageSets" / "Main" / f"{name}.txt"
    try:
        return path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        reason = "there is none" if isinstance(error, FileNotFoundError) else str(error)
        raise DataError(f"voc: expected the list {path}: {reason}. {HINT}") from None


def read_annotation(number: int, folder: Path, stem: str) -> Picture:
    """A picture with its objects, difficult ones too; DataError names the file and what is wrong.

    VOC counts pixels from 1 and its boxes end with their last pixel: ours are x, y, width, height
    from 0.
    """
    path = folder / "Annotations" / f"{stem}.xml"
    try:
        root = ET.parse(path).getroot()
        width, height = (int(root.findtext(f"size/{side}", "")) for side in ("width", "height"))
        objects = [_object(each, width, height) for each in root.findall("object")]
    except FileNotFoundError:
        raise DataError(f"voc: there is no {path}, and a list names it. {HINT}") from None
    except (OSError, ET.ParseError) as error:
        raise DataError(f"voc: {path} cannot be read: {error}") from None
    except _Wrong as error:
        raise DataError(f"voc: {path}: {error}") from None
    except ValueError:
        raise DataError(f"voc: {path} lacks size/width or size/height, in whole pixels") from None
    file = str(Path(folder.name, "JPEGImages", f"{stem}.jpg"))
    return Picture(number, file, height, width, json.dumps(objects).encode())


class _Wrong(Exception):
    """What is wrong with an object."""


def _object(element: ET.Element, width: int, height: int) -> dict[str, Any]:
    name = (element.findtext("name") or "").strip()
    if name not in CLASSES:
        raise _Wrong(f"an object is of class '{name}', which is none of VOC's 20")
    try:
        edges = [
            float(element.findtext(f"bndbox/{edge}", ""))
            for edge in ("xmin", "ymin", "xmax", "ymax")
        ]
        difficult = int(element.findtext("difficult", "0"))
    except ValueError:
        raise _Wrong(f"a {name} lacks bndbox/xmin, ymin, xmax and ymax in numbers") from None
    x0, y0 = max(edges[0] - 1, 0), max(edges[1] - 1, 0)
    x1, y1 = min(edges[2], width), min(edges[3], height)
    if not (x0 < x1 and y0 < y1):
        raise _Wrong(f"a {name} has the box {edges}, nothing of which is in {width} x {height}")
    return {
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "category_id": CLASSES.index(name),
        "iscrowd": 0,
        "difficult": difficult,
    }


def voc_precision(
    truth: Mapping[int, Sequence[Mapping[str, Any]]], found: Mapping[int, Mapping[str, Any]]
) -> dict[str, float]:
    """box_ap (mean over OVERLAPS), box_ap50, box_ap75 in percent, means over the classes that
    occur: VOC 2007's, precision read at eleven recalls, difficult objects neither sought nor
    counted against (Detectron2's PascalVOCDetectionEvaluator; it rounds scores to three digits
    and boxes to tenths of a pixel, this does not).

    truth   picture's id -> objects as `read_annotation` has them
    found   picture's id -> boxes (N, 4) x0, y0, x1, y1, scores (N,), classes (N,)
    """
    occurring = {each["category_id"] for objects in truth.values() for each in objects}
    table = np.array(
        [_precisions(truth, found, kind) for kind in sorted(occurring)], dtype=float
    ).reshape(-1, len(OVERLAPS))
    if not len(table) or np.isnan(table).all():
        return dict.fromkeys(("box_ap", "box_ap50", "box_ap75"), 0.0)
    mean = 100 * np.nanmean(table, axis=0)
    return {
        "box_ap": float(mean.mean()),
        "box_ap50": float(mean[OVERLAPS.index(0.5)]),
        "box_ap75": float(mean[OVERLAPS.index(0.75)]),
    }


def _precisions(
    truth: Mapping[int, Sequence[Mapping[str, Any]]],
    found: Mapping[int, Mapping[str, Any]],
    kind: int,
) -> list[float]:
    """Of one class, at each of OVERLAPS; not a number where nothing is to be found."""
    boxes, difficult = {}, {}
    for picture, objects in truth.items():
        own = [each for each in objects if each["category_id"] == kind]
        edges = np.array([each["bbox"] for each in own], dtype=float).reshape(-1, 4)
        edges[:, 2:] += edges[:, :2]
        boxes[picture] = edges
        difficult[picture] = np.array([each["difficult"] for each in own], dtype=bool)
    sought = sum(int((~each).sum()) for each in difficult.values())
    if not sought:
        return [float("nan")] * len(OVERLAPS)
    detections = [
        (float(score), picture, np.asarray(box, dtype=float))
        for picture, each in found.items()
        for box, score, label in zip(each["boxes"], each["scores"], each["classes"], strict=True)
        if int(label) == kind
    ]
    detections.sort(key=lambda detection: -detection[0])
    places = [_nearest(boxes[picture], box) for _, picture, box in detections]
    pictures = [picture for _, picture, _ in detections]
    return [
        _eleven_points(_hits(pictures, places, difficult, least), sought) for least in OVERLAPS
    ]


def _hits(
    pictures: Sequence[int],
    places: Sequence[tuple[int, float]],
    difficult: Mapping[int, NDArray[np.bool_]],
    least: float,
) -> NDArray[np.int64]:
    """Of each detection, best first: 1 the first of an object, 0 wrong, -1 of a difficult one."""
    taken: set[tuple[int, int]] = set()
    hits = np.zeros(len(pictures), dtype=np.int64)
    for i, (picture, (place, overlap)) in enumerate(zip(pictures, places, strict=True)):
        if overlap <= least:
            continue
        if difficult[picture][place]:
            hits[i] = -1
        elif (picture, place) not in taken:
            hits[i] = 1
            taken.add((picture, place))
    return hits


def _nearest(boxes: NDArray[np.float64], box: NDArray[np.float64]) -> tuple[int, float]:
    """The object that a detection overlaps most, and its share of their union."""
    if not len(boxes):
        return -1, 0.0
    low, high = np.maximum(boxes[:, :2], box[:2]), np.minimum(boxes[:, 2:], box[2:])
    common = (high - low).clip(min=0).prod(1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1) + (box[2:] - box[:2]).prod() - common
    shares = common / areas
    return int(shares.argmax()), float(shares.max())


def _eleven_points(hits: NDArray[np.int64], sought: int) -> float:
    right = np.cumsum(hits == 1)
    wrong = np.cumsum(hits == 0)
    recall = right / sought
    precision = right / np.maximum(right + wrong, np.finfo(np.float64).eps)
    read = [precision[recall >= least].max(initial=0.0) for least in RECALLS]
    return float(np.mean(read))
