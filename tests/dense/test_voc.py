"""PASCAL VOC's layout and measure, and Faster R-CNN C4 on it."""

import shutil
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import torch

from rm import registry
from rm.datasets import DataError, load
from rm.dense.maps import Maps
from rm.dense.models import DenseModel
from rm.dense.voc import CLASSES, OVERLAPS, voc_precision
from rm.distributed import ProcessGroup
from rm.tasks.detection import Detection
from rm.trainer import Trainer
from rm.trial import TrialError, parse_trial
from tests.support.rm.dense import values
from tests.support.rm.voc_sample import write_sample

CPU = torch.device("cpu")
OPTIONS = {"root": "voc-sample", "complete": False, "smallest_side": 64, "short_side": 128,
           "long_side": 160}  # fmt: skip


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    return write_sample(tmp_path_factory.mktemp("voc"))


@pytest.fixture
def folder(sample, monkeypatch):
    monkeypatch.setenv("RM_DATA_DIR", str(sample.parent))
    load.__globals__["_whole"].cache_clear()
    yield sample
    load.__globals__["_whole"].cache_clear()


@pytest.fixture
def copy(folder, tmp_path, monkeypatch):
    """One that a test may damage."""
    shutil.copytree(folder, tmp_path / "voc-sample")
    monkeypatch.setenv("RM_DATA_DIR", str(tmp_path))
    return tmp_path / "voc-sample"


def annotation(folder, number=0):
    return sorted((folder / "VOC2007" / "Annotations").iterdir())[number]


def test_both_years_are_trained_on_and_boxes_are_vocs(folder):
    data = load("voc", OPTIONS)
    assert (len(data.train), len(data.test), data.classes) == (24, 12, 20)
    reader = data.train.reader
    assert {picture.file.split("/")[0] for picture in reader.pictures} == {"VOC2007", "VOC2012"}
    for position in (0, 13):
        sample = reader(position, 0)
        picture = reader.pictures[position]
        file = folder / picture.file.replace("JPEGImages", "Annotations").replace("jpg", "xml")
        objects = ET.parse(file).getroot().findall("object")
        names = [each.findtext("name") for each in objects]
        assert [CLASSES[label] for label in sample["classes"]] == names
        edges = np.array([[float(edge.text) for edge in each.find("bndbox")] for each in objects])
        edges -= [1, 1, 0, 0]
        width, height = sample["meta"]["scale_factor"]
        edges *= [width, height, width, height]
        if sample["meta"]["flip"]:
            edges = edges[:, [2, 1, 0, 3]] * [-1, 1, -1, 1]
            edges[:, [0, 2]] += sample["meta"]["img_shape"][1]
        assert np.allclose(sample["boxes"].numpy(), edges, atol=1e-3)
        assert not sample["crowds"].any()


def test_training_draws_a_side_and_testing_does_not(folder):
    data = load("voc", OPTIONS)
    sides = {min(data.train.reader(0, seed)["meta"]["img_shape"]) for seed in range(40)}
    assert sides == {64, 96, 120}, "the longer side of 160 holds the largest back"
    assert len({data.test.reader(0, seed)["meta"]["img_shape"] for seed in range(5)}) == 1
    with pytest.raises(TrialError, match="training goes from smallest_side to short_side"):
        parse_trial(trial(dataset={"name": "voc", "smallest_side": 128, "short_side": 96}))


def trial(**sections):
    return values(
        "faster_rcnn_c4",
        **{
            "dataset": {"name": "voc", **OPTIONS, "test_limit": 2},
            "task": {"name": "detection", "frozen_stages": 0, "frozen_norms": False,
                     "iterations": 15},
            "train": {"epochs": 1, "batch_size": 2},
            **sections,
        },
    )  # fmt: skip


def test_it_is_trained_for_a_number_of_iterations(folder):
    """More than one pass, and every batch of one kind; batch norms learn, the extra one too."""
    trainer = Trainer(parse_trial(trial()), CPU)
    task = trainer.task
    plan = task.epoch_plan(np.random.default_rng(0))
    assert plan.pictures.shape == plan.seeds.shape == (15, 2)
    assert trainer.steps_per_epoch == 15
    assert set(plan.pictures[:13].ravel()) == set(range(24)), "a whole pass comes first"
    wide = task.train_split.reader.wide
    assert all(len(set(wide[batch])) == 1 for batch in plan.pictures)
    before = {name: value.clone() for name, value in task.deployed().items()}
    for _ in range(2):
        assert torch.isfinite(trainer.train_step().loss)
    after = task.deployed()
    for name in (
        "backbone.layer1.0.conv1.weight", "backbone.layer1.0.bn1.running_mean",
        "roi_head.shared_head.layer4.0.conv1.weight", "roi_head.shared_head.norm.weight",
        "roi_head.shared_head.norm.running_var",
    ):  # fmt: skip
        assert not torch.equal(before[name], after[name]), name
    metrics = trainer.evaluate()
    assert set(metrics) == {"test_box_ap", "test_box_ap50", "test_box_ap75"}
    trainer.close()


def test_batch_norms_of_two_processes_are_shared_out_or_refused(folder):
    """On GPUs they are synchronised; the CPU has no such batch norm."""
    group = ProcessGroup()
    group.count = 2  # all that is asked of it before training begins
    values = trial()
    options = {k: v for k, v in values["task"].items() if k != "name"}
    with pytest.raises(TrialError, match=r"batch_norm_groups 1 with 2 processes.* or 1 on GPUs"):
        Detection(parse_trial(values), CPU, group, **options)
    values["train"]["batch_norm_groups"] = 4
    model = Detection(parse_trial(values), CPU, group, **options).model
    assert model.roi_head.shared_head.norm.groups == 2, "two processes with two groups each"


def test_the_last_stage_has_the_backbones_weights():
    backbone = registry.load("backbone", "timm")(1, 3, model="test_resnet")
    weight = backbone.network.layer4[0].conv1.weight.detach().clone()
    maps = Maps(backbone, 0, False)
    config = registry.load("head", "faster_rcnn_c4")(maps.channels, 20, width=8)
    model = DenseModel("mmdet").build(config, maps)
    assert torch.equal(model.roi_head.shared_head.layer4[0].conv1.weight, weight)
    (found,) = maps(torch.zeros(1, 3, 64, 64))
    assert found.shape == (1, maps.channels[2], 4, 4)
    regions = model.roi_head.shared_head(torch.zeros(2, maps.channels[2], 14, 14))
    assert regions.shape == (2, maps.channels[3], 7, 7)
    transformer = registry.load("backbone", "imagenet_pvt_v2_b1")
    with torch.device("meta"), pytest.raises(TrialError, match="C4 head is for ResNets"):
        Maps(transformer(1, 3), 0, False).take_last_stage(extra_norm=True)


def test_parameters_of_the_papers_detector():
    """ResNet-50 without its classifier, the proposal network (a convolution, 15 anchors a place),
    the extra norm, 21 classes and 80 shifts.
    """
    with torch.device("meta"):
        maps = Maps(registry.load("backbone", "imagenet_resnet50")(1, 3), 0, False)
        config = registry.load("head", "faster_rcnn_c4")(maps.channels, 20)
        model = DenseModel("mmdet").build(config, maps)
    proposals = 9 * 1024**2 + 1024 + 15 * 1025 + 60 * 1025
    expected = 23_508_032 + proposals + 2 * 2048 + 21 * 2049 + 80 * 2049
    assert sum(p.numel() for p in model.parameters()) == expected == 33_234_160


def rename(root):
    root.find("object/name").text = "zebra"


def unbox(root):
    root.find("object/bndbox").remove(root.find("object/bndbox/ymax"))


def outside(root):
    for edge in root.find("object/bndbox"):
        edge.text = "5000"


def unsized(root):
    root.remove(root.find("size"))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (rename, "an object is of class 'zebra', which is none of VOC's 20"),
        (unbox, r"a \w+ lacks bndbox/xmin, ymin, xmax and ymax in numbers"),
        (outside, r"a \w+ has the box \[5000.*, nothing of which is in \d+ x \d+"),
        (unsized, "lacks size/width or size/height"),
    ],
)
def test_annotations_that_cannot_be_are_named(edit, message, copy):
    path = annotation(copy)
    document = ET.parse(path)
    edit(document.getroot())
    document.write(path)
    with pytest.raises(DataError, match=rf"voc: .*{path.name}:? {message}"):
        load("voc", OPTIONS)


def test_missing_and_damaged_files_are_named(copy):
    with pytest.raises(
        DataError, match=r"expected 16,551 pictures in VOC2007 trainval.* found 24"
    ):
        load("voc", {"root": "voc-sample"})
    path = annotation(copy)
    path.write_text(path.read_text()[:-20])
    with pytest.raises(DataError, match=rf"{path.name} cannot be read: "):
        load("voc", OPTIONS)
    path.unlink()
    with pytest.raises(DataError, match=rf"there is no .*{path.name}, and a list names it"):
        load("voc", OPTIONS)
    (copy / "VOC2012" / "ImageSets" / "Main" / "trainval.txt").unlink()
    with pytest.raises(
        DataError, match=r"expected the list .*VOC2012.*trainval\.txt: there is none"
    ):
        load("voc", OPTIONS)
    with pytest.raises(DataError, match=r"there is no .*VOCdevkit\. Unpack VOCtrainval"):
        load("voc", {})


def devkit(truth, found, kind, least):
    """Of one class, as the devkit's and Detectron2's code goes through a list of lines: whole
    pixels counted from 1, boxes that end with their last pixel.
    """
    lines = [
        (float(score), picture, [float(box[0]) + 1, float(box[1]) + 1, *map(float, box[2:])])
        for picture, each in found.items()
        for box, score, label in zip(each["boxes"], each["scores"], each["classes"], strict=True)
        if label == kind
    ]
    taken, right, wrong, recalls, precisions = set(), 0, 0, [], []
    own = {p: [o for o in each if o["category_id"] == kind] for p, each in truth.items()}
    sought = sum(not o["difficult"] for each in own.values() for o in each)
    for _, picture, (x0, y0, x1, y1) in sorted(lines, key=lambda line: -line[0]):
        best, place = -1.0, None
        for i, each in enumerate(own[picture]):
            gx0, gy0 = each["bbox"][0] + 1, each["bbox"][1] + 1
            gx1, gy1 = gx0 + each["bbox"][2] - 1, gy0 + each["bbox"][3] - 1
            w = max(min(x1, gx1) - max(x0, gx0) + 1, 0)
            h = max(min(y1, gy1) - max(y0, gy0) + 1, 0)
            union = (x1 - x0 + 1) * (y1 - y0 + 1) + (gx1 - gx0 + 1) * (gy1 - gy0 + 1) - w * h
            if w * h / union > best:
                best, place = w * h / union, i
        if best > least and own[picture][place]["difficult"]:
            pass
        elif best > least and (picture, place) not in taken:
            taken.add((picture, place))
            right += 1
        else:
            wrong += 1
        if right + wrong:
            recalls.append(right / sought)
            precisions.append(right / (right + wrong))
    if not sought:
        return None
    points = zip(recalls, precisions, strict=True)
    pairs = list(points)
    eleven = [max((p for r, p in pairs if r >= t), default=0.0) for t in np.arange(0.0, 1.1, 0.1)]
    return sum(eleven) / 11


def scene(seed):
    """Objects of three classes in eight pictures, a fifth of them difficult, and detections that
    are near them, twice of the same, far off, and of another class.
    """
    rng = np.random.default_rng(seed)
    truth, found = {}, {}
    for picture in range(8):
        boxes = np.round(rng.uniform([0, 0, 20, 20], [60, 60, 50, 50], (rng.integers(1, 6), 4)))
        kinds = rng.integers(0, 3, len(boxes))
        truth[picture] = [
            {"bbox": box.tolist(), "category_id": int(kind), "difficult": int(rng.random() < 0.2)}
            for box, kind in zip(boxes, kinds, strict=True)
        ]
        shown = np.repeat(boxes, 2, axis=0) + rng.normal(0, 3, (2 * len(boxes), 4))
        shown[:, 2:] = shown[:, :2] + shown[:, 2:].clip(5)
        labels = np.where(rng.random(len(shown)) < 0.9, np.repeat(kinds, 2), 3)
        found[picture] = {
            "boxes": torch.from_numpy(shown), "scores": torch.from_numpy(rng.random(len(shown))),
            "classes": torch.from_numpy(labels),
        }  # fmt: skip
    return truth, found


@pytest.mark.parametrize("seed", range(3))
def test_precision_is_what_the_devkit_says(seed):
    truth, found = scene(seed)
    ours = voc_precision(truth, found)
    table = [[devkit(truth, found, kind, least) for least in OVERLAPS] for kind in range(3)]
    mean = 100 * np.mean([row for row in table if row[0] is not None], axis=0)
    assert 5 < mean.mean() < mean[0] < 100
    assert ours["box_ap"] == pytest.approx(mean.mean())
    assert ours["box_ap50"] == pytest.approx(mean[0])
    assert ours["box_ap75"] == pytest.approx(mean[5])


def test_the_truth_scores_100_and_nothing_0():
    truth, _ = scene(0)
    perfect, nothing = {}, {}
    for picture, objects in truth.items():
        boxes = torch.tensor([each["bbox"] for each in objects])
        boxes[:, 2:] += boxes[:, :2]
        kinds = torch.tensor([each["category_id"] for each in objects])
        perfect[picture] = {"boxes": boxes, "scores": torch.ones(len(boxes)), "classes": kinds}
        nothing[picture] = {"boxes": [], "scores": [], "classes": []}
    assert list(voc_precision(truth, perfect).values()) == pytest.approx([100] * 3)
    assert set(voc_precision(truth, nothing).values()) == {0.0}
    assert set(voc_precision({0: []}, {0: nothing[0]}).values()) == {0.0}
