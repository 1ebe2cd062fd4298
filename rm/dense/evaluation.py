"""What detections and segmentations are worth: COCO's average precision, and mean IoU."""

import contextlib
import os
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rm.dense.coco_file import CATEGORIES, read_annotations

_AVERAGES = {"ap": 0, "ap50": 1, "ap75": 2}
"""Position in COCO's statistics."""


def average_precision(
    annotations: Path, found: Mapping[int, Mapping[str, Any]], masks: bool
) -> dict[str, float]:
    """box_ap, box_ap50, box_ap75 and with `masks` mask_ap, ... in percent.

    annotations   the file of the truth
    found         picture's id -> boxes (N, 4) x0, y0, x1, y1, scores (N,), classes (N,) and
                  `masks`, run lengths; only these pictures are evaluated
    """
    from faster_coco_eval import COCOeval_faster

    kinds = {"box": "bbox", **({"mask": "segm"} if masks else {})}
    detections = list(_detections(found, masks))
    if not detections:  # which COCO's code cannot take
        return {f"{kind}_{name}": 0.0 for kind in kinds for name in _AVERAGES}
    metrics = {}
    with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):  # noqa: PTH123
        truth = _truth(annotations, frozenset(found))
        results = truth.loadRes(detections)
        for kind, name in kinds.items():
            evaluation = COCOeval_faster(truth, results, name)
            evaluation.params.imgIds = sorted(found)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            for metric, position in _AVERAGES.items():
                # -1 where no object is there to be found
                metrics[f"{kind}_{metric}"] = 100 * max(0.0, float(evaluation.stats[position]))
    return metrics


@lru_cache(maxsize=1)
def _truth(annotations: Path, pictures: frozenset[int]) -> Any:
    """Read once for all epochs' evaluations."""
    from faster_coco_eval import COCO

    data = read_annotations(annotations)
    return COCO(
        {
            "images": [image for image in data["images"] if image["id"] in pictures],
            "annotations": [a for a in data["annotations"] if a["image_id"] in pictures],
            "categories": data["categories"],
        }
    )


def _detections(found: Mapping[int, Mapping[str, Any]], masks: bool) -> Iterable[dict[str, Any]]:
    for picture, instances in found.items():
        for i, box in enumerate(instances["boxes"].tolist()):
            x0, y0, x1, y1 = box
            detection = {
                "image_id": picture,
                "category_id": CATEGORIES[int(instances["classes"][i])],
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "score": float(instances["scores"][i]),
            }
            if masks:
                detection["segmentation"] = instances["masks"][i]
            yield detection


def confusion(predicted: Tensor, truth: Tensor, classes: int) -> Tensor:
    """(H, W) each -> (K, K) int64: pixels of a class (rows) that were taken for another; those
    that the truth does not name (255) are left out.
    """
    named = truth != 255
    pairs = truth[named].long() * classes + predicted[named].long()
    return torch.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def iou_metrics(matrix: Tensor) -> dict[str, float]:
    """miou, macc, aacc in percent of a confusion matrix, as mmseg's IoUMetric has them: means over
    the classes that occur.
    """
    pixels = matrix.double()
    hits, truth, predicted = pixels.diag(), pixels.sum(1), pixels.sum(0)
    shares = {
        "miou": hits / (truth + predicted - hits),
        "macc": hits / truth,
        "aacc": hits.sum() / truth.sum(),
    }
    # Not a number where nothing is to be found; then it is 0 altogether.
    return {name: 100 * float(share.nanmean().nan_to_num(0)) for name, share in shares.items()}
