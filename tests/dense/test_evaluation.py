"""What detections and segmentations are worth, and how pictures reach the networks."""

import contextlib
import io
import json

import numpy as np
import pytest
import torch

from rm import evaluate
from rm.datasets import load
from rm.dense import transforms
from rm.dense.evaluation import average_precision, confusion, iou_metrics
from rm.rundir import weights
from rm.trainer import Trainer
from rm.trial import parse_trial
from tests.support.rm.dense import SAMPLES, values

CPU = torch.device("cpu")
ANNOTATIONS = SAMPLES / "coco-sample" / "annotations" / "instances_val2017.json"


def truth(shift=0.0, score=1.0):
    """The annotations as detections: picture's id -> instances."""
    from rm.dense.coco import CATEGORIES

    data = json.loads(ANNOTATIONS.read_text())
    found = {
        image["id"]: {"boxes": [], "scores": [], "classes": [], "masks": []}
        for image in data["images"]
    }
    for number, each in enumerate(data["annotations"]):
        if each["iscrowd"]:
            continue
        x, y, w, h = each["bbox"]
        instances = found[each["image_id"]]
        instances["boxes"].append([x + shift * w, y, x + w + shift * w, y + h])
        instances["scores"].append(score if score < 1 else 1 - number / 1000)
        instances["classes"].append(CATEGORIES.index(each["category_id"]))
        instances["masks"].append(each["segmentation"])
    for instances in found.values():
        instances["boxes"] = torch.tensor(instances["boxes"]).reshape(-1, 4)
    return found


def pycocotools(found, kind):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    from rm.dense.evaluation import _detections

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(ANNOTATIONS))
        evaluation = COCOeval(coco, coco.loadRes(list(_detections(found, True))), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [100 * value for value in evaluation.stats[:3]]


def test_the_truth_scores_100_and_nothing_0():
    found = average_precision(ANNOTATIONS, truth(), True)
    assert found == {f"{kind}_{name}": pytest.approx(100) for kind in ("box", "mask")
                     for name in ("ap", "ap50", "ap75")}  # fmt: skip
    nothing = {
        picture: {"boxes": torch.zeros(0, 4), "scores": [], "classes": [], "masks": []}
        for picture in truth()
    }
    assert set(average_precision(ANNOTATIONS, nothing, True).values()) == {0.0}
    first = next(iter(nothing))
    partly = {**nothing, first: truth()[first]}
    assert 0 < average_precision(ANNOTATIONS, partly, False)["box_ap"] < 100


@pytest.mark.parametrize("shift", [0.1, 0.3])
def test_shifted_boxes_score_what_pycocotools_says(shift):
    found = truth(shift)
    ours = average_precision(ANNOTATIONS, found, True)
    for kind, name in (("box", "bbox"), ("mask", "segm")):
        expected = pycocotools(found, name)
        got = [ours[f"{kind}_{metric}"] for metric in ("ap", "ap50", "ap75")]
        assert got == pytest.approx(expected, abs=1e-9)
    assert ours["box_ap"] < ours["box_ap50"]


def test_iou_is_mmsegs():
    from mmseg.evaluation.metrics import IoUMetric

    generator = torch.Generator().manual_seed(0)
    predicted = torch.randint(5, (40, 30), generator=generator)
    labels = torch.randint(5, (40, 30), generator=generator)
    labels[:4], labels[labels == 3] = 255, 2  # class 3 is predicted only
    matrix = confusion(predicted, labels, 7)
    assert matrix.dtype == torch.int64
    assert matrix.sum() == 36 * 30
    areas = IoUMetric.intersect_and_union(predicted, labels, 7, 255)
    theirs = IoUMetric.total_area_to_metrics(*areas)
    ours = iou_metrics(matrix)
    assert ours["miou"] == pytest.approx(100 * np.nanmean(theirs["IoU"]), abs=1e-4)
    assert ours["macc"] == pytest.approx(100 * np.nanmean(theirs["Acc"]), abs=1e-4)
    assert ours["aacc"] == pytest.approx(100 * float(theirs["aAcc"]), abs=1e-4)
    assert iou_metrics(confusion(labels, labels, 7)) == dict.fromkeys(ours, 100.0)
    assert iou_metrics(torch.zeros(7, 7, dtype=torch.int64)) == dict.fromkeys(ours, 0.0)


def test_a_detectors_pictures_are_mmdets():
    """Resized and mirrored boxes, masks and pixels, to the bit."""
    from mmdet.datasets import CocoDataset
    from mmdet.utils import register_all_modules

    register_all_modules(init_default_scope=True)
    steps = [
        {"type": "LoadImageFromFile"},
        {"type": "LoadAnnotations", "with_bbox": True, "with_mask": True},
        {"type": "Resize", "scale": (160, 96), "keep_ratio": True},
        {"type": "RandomFlip", "prob": 0.5},
        {"type": "PackDetInputs"},
    ]
    theirs = CocoDataset(
        data_root=str(SAMPLES / "coco-sample"),
        ann_file="annotations/instances_train2017.json",
        data_prefix={"img": "train2017/"},
        filter_cfg={"filter_empty_gt": True, "min_size": 32},
        pipeline=steps,
    )
    options = {"root": "coco-sample", "short_side": 96, "long_side": 160}
    reader = load("coco", options).train.reader
    reader = type(reader)(**{**vars(reader), "masks": True})
    assert len(theirs) == len(reader.pictures) == 24
    flips = set()
    for position in range(0, 24, 4):
        np.random.seed(position)
        expected, found = theirs[position], reader(position, position)
        data = expected["data_samples"]
        assert torch.equal(found["image"], expected["inputs"])
        boxes = torch.cat([data.gt_instances.bboxes.tensor, data.ignored_instances.bboxes.tensor])
        assert torch.equal(found["boxes"], boxes)
        assert np.array_equal(found["masks"].numpy(), data.gt_instances.masks.masks)
        assert found["meta"]["scale_factor"] == pytest.approx(data.scale_factor)
        flips.add(found["meta"]["flip"])
    assert flips == {True, False}


def test_a_segmentation_networks_pictures_are_mmsegs():
    """Random size, crop, mirror and colours, to the bit: our generator draws in their order."""
    from mmseg.datasets import ADE20KDataset
    from mmseg.utils import register_all_modules

    register_all_modules(init_default_scope=True)
    steps = [
        {"type": "LoadImageFromFile"},
        {"type": "LoadAnnotations", "reduce_zero_label": True},
        {
            "type": "RandomResize",
            "scale": (512, 128),
            "ratio_range": (0.5, 2.0),
            "keep_ratio": True,
        },
        {"type": "RandomCrop", "crop_size": (96, 96), "cat_max_ratio": 0.75},
        {"type": "RandomFlip", "prob": 0.5},
        {"type": "PhotoMetricDistortion"},
        {"type": "PackSegInputs"},
    ]
    theirs = ADE20KDataset(
        data_root=str(SAMPLES / "ade-sample"),
        data_prefix={"img_path": "images/training", "seg_map_path": "annotations/training"},
        pipeline=steps,
    )
    options = {"root": "ade-sample", "short_side": 128, "long_side": 512, "crop": 96}
    reader = load("ade20k", options).train.reader
    for seed in range(12):
        np.random.seed(seed)
        expected, found = theirs[seed % 3], reader(seed % 3, seed)
        assert torch.equal(found["image"], expected["inputs"]), seed
        assert torch.equal(found["labels"], expected["data_samples"].gt_sem_seg.data[0]), seed


def test_what_is_drawn_for_a_picture_follows_from_its_seed():
    draws = [transforms.distort(np.full((4, 4, 3), 90, np.uint8), np.random.RandomState(s))
             for s in (1, 1, 2)]  # fmt: skip
    assert np.array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Weights of an untrained detector, under OpenMMLab's names, as its checkpoints hold them."""
    folder = tmp_path_factory.mktemp("weights")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RM_DATA_DIR", str(SAMPLES))
        patch.setenv("RM_LOADER_WORKERS", "0")
        task = Trainer(parse_trial(values("atss")), CPU).task
    torch.save({"meta": {"epoch": 12}, "state_dict": task.deployed()}, folder / "theirs.pth")
    weights.save(folder / "ours.pt", task.deployed())
    return folder


WORDS = ["--task", "detection", "--head", "atss", "--backbone", "timm", "--pictures", "2",
         "--set", "backbone.model=test_resnet", "--set", "head.width=16",
         "--set", "head.convolutions=1", "--data", str(SAMPLES / "coco-sample")]  # fmt: skip


@pytest.mark.parametrize("file", ["theirs.pth", "ours.pt"])
def test_somebodys_weights_are_evaluated(trained, file, capsys):
    assert evaluate.main([*WORDS, "--weights", str(trained / file)]) == 0
    assert json.loads(capsys.readouterr().out) == {"box_ap": 0, "box_ap50": 0, "box_ap75": 0}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--weights", "{folder}/none.pth"], "none.pth cannot be read: No such file"),
        (["--weights", "{folder}/ours.pt", "--set", "head.width=32"], "ours.pt does not hold"),
        (["--weights", "{folder}/ours.pt", "--data", "{folder}"], "instances_val2017.json; put"),
        (["--weights", "{folder}/ours.pt", "--set", "width=32"], "expected SECTION.OPTION=VALUE"),
        (["--weights", "{folder}/ours.pt", "--head", "upernet"], "has no option 'convolutions'"),
    ],
)
def test_what_cannot_be_evaluated_is_a_sentence(trained, words, message, capsys):
    words = [word.format(folder=trained) for word in words]
    assert evaluate.main([*WORDS, *words]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
