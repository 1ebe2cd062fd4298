"""The small sample of COCO in VOC's layout: python -m tests.support.rm.voc_sample TARGET

Its 24 training pictures are the trainval of both years, 12 each; its 12 others the test of 2007.
Objects of the 20 classes that both data sets have; a crowd is difficult. A picture with none of
them gets its largest object as a "person", since VOC has no picture without objects.
"""

import json
import shutil
import sys
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SAMPLE = Path(__file__).resolve().parents[2] / "data" / "coco-sample"
NAMES = {
    5: "aeroplane", 2: "bicycle", 16: "bird", 9: "boat", 44: "bottle", 6: "bus", 3: "car",
    17: "cat", 62: "chair", 21: "cow", 67: "diningtable", 18: "dog", 19: "horse", 4: "motorbike",
    1: "person", 64: "pottedplant", 20: "sheep", 63: "sofa", 7: "train", 72: "tvmonitor",
}  # fmt: skip
"""COCO's category -> VOC's class."""


def write_sample(target: Path) -> Path:
    """`target`/voc-sample, as VOCdevkit; what is there already is replaced."""
    place = target / "voc-sample"
    shutil.rmtree(place, ignore_errors=True)
    lists: dict[tuple[str, str], list[str]] = {}
    for split in ("train", "val"):
        data = json.loads((SAMPLE / "annotations" / f"instances_{split}2017.json").read_bytes())
        for number, image in enumerate(data["images"]):
            year = "2012" if split == "train" and number % 2 else "2007"
            own = [each for each in data["annotations"] if each["image_id"] == image["id"]]
            folder = place / f"VOC{year}"
            (folder / "JPEGImages").mkdir(parents=True, exist_ok=True)
            (folder / "Annotations").mkdir(exist_ok=True)
            stem = Path(image["file_name"]).stem
            picture = SAMPLE / f"{split}2017" / image["file_name"]
            shutil.copyfile(picture, folder / "JPEGImages" / f"{stem}.jpg")
            _annotate(folder / "Annotations" / f"{stem}.xml", image, own)
            name = "trainval" if split == "train" else "test"
            lists.setdefault((year, name), []).append(stem)
    for (year, name), stems in lists.items():
        folder = place / f"VOC{year}" / "ImageSets" / "Main"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.txt").write_text("".join(f"{stem}\n" for stem in stems))
    return place


def _annotate(path: Path, image: Mapping[str, Any], objects: Sequence[Mapping[str, Any]]) -> None:
    known = [
        (NAMES[each["category_id"]], each) for each in objects if each["category_id"] in NAMES
    ]
    if not known and objects:
        known = [("person", max(objects, key=lambda each: each["bbox"][2] * each["bbox"][3]))]
    root = ET.Element("annotation")
    ET.SubElement(root, "filename").text = f"{path.stem}.jpg"
    size = ET.SubElement(root, "size")
    for side in ("width", "height"):
        ET.SubElement(size, side).text = str(image[side])
    ET.SubElement(size, "depth").text = "3"
    for name, each in known:
        x, y, w, h = each["bbox"]
        one = ET.SubElement(root, "object")
        ET.SubElement(one, "name").text = name
        ET.SubElement(one, "difficult").text = str(each.get("iscrowd", 0))
        box = ET.SubElement(one, "bndbox")
        edges = {"xmin": x + 1, "ymin": y + 1, "xmax": x + w, "ymax": y + h}
        for edge, value in edges.items():
            ET.SubElement(box, edge).text = str(max(1, round(value)))
    ET.ElementTree(root).write(path)


if __name__ == "__main__":
    print(write_sample(Path(sys.argv[1])))
