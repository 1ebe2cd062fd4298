"""Detection and segmentation on the one trainer: training, evaluation, resuming, bad input."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from rm import registry
from rm.datasets import DataError, load
from rm.rundir import weights
from rm.rundir.result import save_weights
from rm.rundir.weights import InitialWeights
from rm.train import Interrupted
from rm.trainer import Trainer
from rm.trial import TrialError, parse_trial
from tests.support.rm.dense import HEADS, SAMPLES, run, values
from tests.support.trials import deterministic

CPU = torch.device("cpu")


SHORT = ("atss", "pspnet")
"""Of each task one that takes little."""


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


@pytest.mark.parametrize(
    "head",
    [pytest.param(each, marks=() if each in SHORT else pytest.mark.cluster) for each in HEADS],
)
def test_a_head_trains_and_resumes_bit_for_bit(head, tmp_path, monkeypatch):
    """Stopped inside both epochs and between them, and read by others."""
    whole = run(head, tmp_path / "whole")
    primary = whole.task.metrics()[0].name
    assert f"test_{primary}" not in whole.epochs[0]
    assert all(np.isfinite(whole.epochs[1][f"test_{m.name}"]) for m in whole.task.metrics())
    assert whole.epochs[0]["train_loss"] > 0
    steps = whole.steps_per_epoch
    for stop in (1, steps - 2, 2):
        with pytest.raises(Interrupted):
            run(head, tmp_path / "stopped", stop)
    monkeypatch.setenv("RM_LOADER_WORKERS", "2")
    resumed = run(head, tmp_path / "stopped")
    assert deterministic(tmp_path / "whole") == deterministic(tmp_path / "stopped")
    assert equal(whole.task.state_dict(), resumed.task.state_dict())


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("head", ["faster_rcnn_c4", "mask_rcnn"])
def test_regions_are_cut_in_fp32(head, precision):
    """Where the rest is autocast: bf16 has no kernel for it, and no odd pixel beyond 256."""
    train = {"epochs": 1, "batch_size": 2, "precision": precision}
    trainer = Trainer(parse_trial(values(head, train=train)), CPU)
    seen = []
    extractor = trainer.task.model.roi_head.bbox_roi_extractor
    extractor.register_forward_hook(
        lambda module, inputs, found: seen.append((inputs[1].dtype, found.dtype))
    )
    loss = trainer.train_step().loss
    trainer.close()
    assert seen
    assert set(seen) == {(torch.float32, torch.float32)}
    assert torch.isfinite(loss)


def test_weights_have_openmmlabs_names_and_start_another_training(tmp_path):
    first = run("atss", tmp_path, train={"epochs": 1, "batch_size": 6})
    written = save_weights(first, tmp_path)
    state = torch.load(tmp_path / "weights.pt", weights_only=True)
    assert {"backbone.layer1.0.conv1.weight", "neck.lateral_convs.0.conv.weight",
            "bbox_head.atss_cls.weight"} <= set(state)  # fmt: skip
    path = tmp_path / "weights.pt"
    init = InitialWeights(state, "model", path, written["weights.pt"])
    again = Trainer(parse_trial(values("atss", seed=5)), CPU, init=init)
    assert equal(first.task.state_dict(), again.task.state_dict())
    other = {name: value for name, value in state.items() if "atss_cls" not in name}
    with pytest.raises(DataError, match=r"weights\.pt does not hold.*missing bbox_head\.atss_cls"):
        Trainer(parse_trial(values("atss")), CPU, init=init._replace(state=other))
    with pytest.raises(DataError, match="does not hold the weights"):
        Trainer(parse_trial(values("gfl")), CPU, init=init)


def test_a_backbones_weights_start_a_detector(tmp_path):
    """Of a classification, and no other backbone's; the rest is what the seed draws."""
    torch.manual_seed(9)
    backbone = registry.load("backbone", "timm")(10, 3, model="test_resnet")
    state = {backbone.plain_name(n): v for n, v in backbone.state_dict().items()}
    weights.save(tmp_path / "w.pt", state)
    init = InitialWeights(state, "backbone", tmp_path / "w.pt", "0")
    plain, started = (Trainer(parse_trial(values("atss")), CPU, init=i) for i in (None, init))
    mine, theirs = started.task.deployed(), plain.task.deployed()
    assert torch.equal(mine["backbone.layer1.0.conv1.weight"], state["layer1.0.conv1.weight"])
    assert not torch.equal(
        theirs["backbone.layer1.0.conv1.weight"], state["layer1.0.conv1.weight"]
    )
    assert torch.equal(mine["bbox_head.atss_cls.weight"], theirs["bbox_head.atss_cls.weight"])
    losses = [float(t.train_step().loss) for t in (plain, started)]
    assert losses[0] != losses[1]
    wrong = {"backbone": {"name": "timm", "model": "test_efficientnet"}}
    with pytest.raises(DataError, match=r"w\.pt does not hold the weights of a test_effi"):
        Trainer(parse_trial(values("atss", **wrong)), CPU, init=init)


def test_learning_rates_are_those_of_the_released_logs():
    """Detection: ATSS with RM, iterations of 7,330 an epoch, as logged (after the step's number);
    segmentation: UperNet with RM.
    """
    from rm.schedules import Progress, poly, step

    def detection(epoch, iteration):
        at = Progress(epoch, 12, iteration - 1, 7330)
        return 0.01 * step(at, milestones=[8, 11], warmup_steps=500)

    logged = {(1, 50): 0.00099, (1, 100): 0.00199, (1, 150): 0.00299, (1, 250): 0.00499,
              (1, 500): 0.00998, (1, 550): 0.01, (8, 7300): 0.01, (9, 50): 0.001,
              (11, 7300): 0.001, (12, 50): 0.0001}  # fmt: skip
    for (epoch, iteration), rate in logged.items():
        assert round(detection(epoch, iteration), 5) == rate, (epoch, iteration)
    logged = {50: 1e-4, 8000: 9e-05, 16000: 8e-05, 40000: 5e-05, 60000: 3e-05, 72000: 1e-05,
              79900: 0.0}  # fmt: skip
    for iteration, rate in logged.items():
        at = Progress((iteration - 1) // 8000 + 1, 10, (iteration - 1) % 8000, 8000)
        assert round(1e-4 * poly(at), 5) == rate, iteration


def test_batches_are_wide_or_high_and_show_every_picture():
    trainer = Trainer(parse_trial(values("atss", train={"epochs": 1, "batch_size": 4})), CPU)
    task = trainer.task
    wide = task.train_split.reader.wide[task.train_split.index]
    plan = task.epoch_plan(np.random.default_rng(0))
    assert plan.pictures.shape == plan.seeds.shape == (trainer.steps_per_epoch, 4)
    assert set(plan.pictures.ravel()) == set(range(6))
    assert all(len(set(wide[batch])) == 1 for batch in plan.pictures)


def test_what_a_trial_of_another_kind_cannot_have():
    for change, message in (
        ({"dataset": {"name": "digits"}}, "'digits' is not for task 'detection'; valid: coco"),
        ({"head": {"name": "upernet"}}, "'upernet' is not for task 'detection'; valid: atss"),
        ({"method": {"name": "cutmix"}}, "does not read 'method'"),
    ):
        with pytest.raises(TrialError, match=message):
            parse_trial(values("atss", **change))
    small = values("atss")
    del small["task"], small["head"]
    with pytest.raises(TrialError, match="'coco' is not for task 'classification'"):
        parse_trial({**small, "method": {"name": "baseline"}})


@pytest.fixture
def coco(tmp_path, monkeypatch):
    """A copy of the sample that a test may damage: its folder, and a way to change annotations."""
    shutil.copytree(SAMPLES / "coco-sample", tmp_path / "coco-sample")
    monkeypatch.setenv("RM_DATA_DIR", str(tmp_path))
    load.__globals__["_whole"].cache_clear()

    def change(split, edit):
        path = tmp_path / "coco-sample" / "annotations" / f"instances_{split}2017.json"
        data = json.loads(path.read_text())
        edit(data)
        path.write_text(json.dumps(data))

    yield tmp_path / "coco-sample", change
    load.__globals__["_whole"].cache_clear()


def _category(data):
    data["annotations"][3]["category_id"] = 12


def _outside(data):
    data["annotations"][3]["bbox"] = [400.0, 400.0, 20.0, 20.0]


def _unlisted(data):
    data["annotations"][3]["image_id"] = -1


def _boxless(data):
    del data["annotations"][3]["bbox"]


def _sizeless(data):
    data["images"][3]["height"] = None


def _sections(data):
    del data["categories"]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (_category, "annotation 4 has category 12, which is none of COCO's 80"),
        (_outside, r"annotation 4 has the box .*outside of 0000000000\d+\.jpg \(320 x"),
        (_unlisted, "annotation 4 is of a picture that is not listed"),
        (_boxless, "an image or annotation lacks 'bbox'"),
        (_sizeless, "an image or annotation has a value of the wrong kind: '<'"),
        (_sections, "lacks one of images, annotations and categories"),
    ],
)
def test_annotations_that_cannot_be_are_named(coco, edit, message):
    _, change = coco
    change("train", edit)
    with pytest.raises(DataError, match=rf"instances_train2017\.json.*{message}"):
        load("coco", {"root": "coco-sample"})


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ({"size": [4, 4], "counts": [1, 15]}, r"is \(4, 4\), not \(\d+, 320\)"),
        ({"counts": [1, 15]}, "cannot be read: "),
        (None, "cannot be read: TypeError"),
    ],
)
def test_masks_that_cannot_be_are_named(coco, segmentation, message):
    _, change = coco

    def edit(data):
        for annotation in data["annotations"]:
            annotation["segmentation"] = segmentation

    change("train", edit)
    reader = load("coco", {"root": "coco-sample"}).train.reader
    file = reader.pictures[0].file
    with pytest.raises(DataError, match=rf"instances_train2017\.json: .*in {file} {message}"):
        replace(reader, masks=True)(0, 1)


def test_missing_and_damaged_files_are_named(coco):
    folder, _ = coco
    options = {"root": "coco-sample", "short_side": 96, "long_side": 160}
    pictures = load("coco", options).train
    file = folder / "train2017" / pictures.reader.pictures[0].file
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=rf"{file.name}: expected a whole JPEG"):
        pictures.reader(0, 1)
    file.unlink()
    with pytest.raises(DataError, match=rf"{file.name} cannot be read: No such file"):
        pictures.reader(0, 1)
    first, *others = pictures.reader.pictures
    other = next(each for each in others if each.height != first.height)
    shutil.copyfile(folder / "train2017" / other.file, file)
    with pytest.raises(DataError, match=r"is \d+ x \d+ pixels, not"):
        pictures.reader(0, 1)
    shutil.rmtree(folder / "stuffthingmaps")
    with pytest.raises(DataError, match=r"semantic branch needs .*stuffthingmaps"):
        Trainer(parse_trial(values("htc")), CPU)
    (folder / "annotations" / "instances_val2017.json").unlink()
    load.__globals__["_whole"].cache_clear()
    with pytest.raises(DataError, match=r"there is no .*instances_val2017\.json; put COCO"):
        load("coco", options)


def test_crowds_and_pictures_without_objects_are_trained_around(coco):
    """A crowd is ignored, a picture whose objects are all crowds trains on nothing, one without
    any is left out.
    """
    _, change = coco

    def edit(data):
        first, second = data["images"][0]["id"], data["images"][1]["id"]
        kept = [a for a in data["annotations"] if a["image_id"] != first]
        for annotation in kept:
            annotation["iscrowd"] = int(annotation["image_id"] == second)
        data["annotations"] = kept

    change("train", edit)
    sections = {"dataset": {**values("mask_rcnn")["dataset"], "limit": None}}
    trainer = Trainer(parse_trial(values("mask_rcnn", **sections)), CPU)
    reader = trainer.task.train_split.reader
    assert len(reader.pictures) == 23
    samples = [reader(0, 1), reader(1, 1)]
    assert samples[0]["crowds"].all()
    assert not samples[1]["crowds"].any()
    losses = trainer.task.dense.losses(trainer.task.model, samples)
    assert torch.isfinite(losses.total)


def test_micro_batches_are_added_up():
    """Their gradient is the mean of what each part of the batch gives by itself."""

    def gradients(batch, parts):
        sections = {"task": {"name": "detection", "frozen_stages": 0, "micro_batches": parts},
                    "train": {"epochs": 1, "batch_size": 4}}  # fmt: skip
        trainer = Trainer(parse_trial(values("atss", **sections)), CPU)
        batch = batch or next(trainer.task.batches(trainer.epoch_plan, 0))
        output = trainer._gradients(
            list(trainer.task.micro_batches(batch)), trainer._step_context()
        )
        found = [p.grad.clone() for p in trainer.trained if p.grad is not None]
        return batch, output, found

    batch, whole, together = gradients(None, 2)
    halves = [gradients(part, 1)[1:] for part in (batch[:2], batch[2:])]
    means = [(a + b) / 2 for a, b in zip(halves[0][1], halves[1][1], strict=True)]
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(together, means, strict=True))
    assert float(whole.loss) == pytest.approx(sum(float(out.loss) for out, _ in halves) / 2)
    assert whole.size == 4
    assert float(whole.logs["train_loss_cls"]) == pytest.approx(
        sum(float(out.logs["train_loss_cls"]) for out, _ in halves)
    )
    with pytest.raises(TrialError, match=r"batch_size % task\.micro_batches == 0: the parts"):
        parse_trial(values("atss", task={"name": "detection", "micro_batches": 3}))
    written = registry.check("task", {"name": "segmentation", "micro_batches": 1})
    assert written == registry.check("task", {"name": "segmentation"}), "ids stay the same"
