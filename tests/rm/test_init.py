"""Trials that start from weights: of another trial or of a file; frozen backbones; the weights
that a trial leaves.
"""

import hashlib
import json

import pytest
import timm
import torch

from rm import registry
from rm.datasets import DataError
from rm.rundir import weights
from rm.train import Interrupted, fit
from rm.trainer import Trainer
from rm.trial import Init, TrialError, parse_trial
from tests.support.rm.training import assert_equal_runs, train

CPU = torch.device("cpu")
PARENT = "0123456789ab"


@pytest.fixture
def parent(tiny, tmp_path):
    """A finished trial with its best weights, as the children below look for it."""
    tiny["train"]["keep_best"] = True
    folder = tmp_path / PARENT
    train(tiny, folder)
    return folder


def child(tiny, **changes):
    init = {"trial": PARENT, "weights": "last", "part": "backbone"}
    return {**tiny, "method": {"name": "baseline"}, "init": init, **changes}


def test_a_trial_leaves_its_weights_and_their_sha256(parent):
    written = json.loads((parent / "result.json").read_text())["weights"]
    assert set(written) == {"weights.pt", "weights.best.pt"}
    for name, sha256 in written.items():
        assert hashlib.sha256((parent / name).read_bytes()).hexdigest() == sha256
    state = torch.load(parent / "weights.pt", weights_only=True)
    backbone = registry.load("backbone", "resnet8")(10, 1, width=8)
    backbone.load_state_dict(state, strict=True)


def test_the_best_weights_survive_an_interruption(tiny, tmp_path):
    """Also where the best epoch lies before it."""
    tiny["train"] |= {"keep_best": True, "epochs": 4}
    tiny["optimizer"]["lr"] = 0.3
    for name, stops in (("whole", ()), ("stopped", (6, 5, 4))):
        train(tiny, tmp_path / name, stops)
    assert_equal_runs(tmp_path / "whole", tmp_path / "stopped")
    one, other = (
        torch.load(tmp_path / name / "weights.best.pt", weights_only=True)
        for name in ("whole", "stopped")
    )
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_the_backbone_comes_from_the_parent_and_the_head_is_new(tiny, parent):
    left = torch.load(parent / "weights.best.pt", weights_only=True)
    init = Init(trial=PARENT, weights="best")
    read = weights.read_init(init, parent.parent / "child")
    trial = parse_trial(child(tiny))
    started = Trainer(trial, CPU, init=read).task.deployed()
    plain = Trainer(parse_trial(tiny | {"method": {"name": "baseline"}}), CPU).task.deployed()
    for name, value in started.items():
        assert torch.equal(value, (plain if name.startswith("head.") else left)[name])
    model = Trainer(trial, CPU, init=read._replace(part="model")).task.deployed()
    assert torch.equal(model["head.weight"], left["head.weight"])


def test_linear_evaluation_leaves_every_bit_of_the_backbone(tiny, parent, tmp_path):
    """Batch-norm statistics too; and with RM's mixing, whose second head is trained."""
    left = torch.load(parent / "weights.pt", weights_only=True)
    for number, method in enumerate(("baseline", "mixup", "recursive_mix")):
        folder = tmp_path / f"child{number}"
        values = child(tiny, freeze="backbone", method={"name": method})
        result = train(values, folder)
        assert (
            result["init"]["sha256"]
            == json.loads((parent / "result.json").read_text())["weights"]["weights.pt"]
        )
        ended = torch.load(folder / "weights.pt", weights_only=True)
        kept = [name for name in ended if not name.startswith("head.")]
        assert all(torch.equal(ended[name], left[name]) for name in kept)
        assert not torch.equal(ended["head.weight"], left["head.weight"])


def test_a_resumed_child_needs_its_parent_no_more(tiny, parent, tmp_path):
    values = child(tiny, freeze="backbone")
    whole = train(values, tmp_path / "whole")
    remaining = iter(range(4))
    with pytest.raises(Interrupted):
        train_until(values, tmp_path / "stopped", remaining)
    (parent / "weights.pt").unlink()
    assert train(values, tmp_path / "stopped")["init"] == whole["init"]
    assert_equal_runs(tmp_path / "whole", tmp_path / "stopped")


def train_until(values, folder, remaining):
    folder.mkdir()
    return fit(parse_trial(values), folder, stop=lambda: next(remaining, None) is None)


def test_a_method_inside_a_frozen_backbone_is_refused(tiny, parent, tmp_path):
    values = child(tiny, freeze="backbone", method={"name": "manifold_mixup"})
    with pytest.raises(TrialError, match="'manifold_mixup' acts inside the backbone"):
        train(values, tmp_path / "child")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda p: (p / "weights.pt").unlink(), "weights are not on this machine"),
        (lambda p: (p / "result.json").unlink(), f"trial {PARENT} is not finished"),
        (lambda p: (p / "weights.pt").write_bytes(b"x" * 9), "has sha256 .* and train"),
        (lambda p: (p / "result.json").write_text("{"), "result.json is damaged"),
        (lambda p: (p / "result.json").write_text('{"weights": {}}'), "left no weights.pt"),
    ],
)
def test_a_parent_without_its_weights_is_named(tiny, parent, tmp_path, harm, message):
    harm(parent)
    with pytest.raises(DataError, match=message):
        train(child(tiny), tmp_path / "child")
    assert not (tmp_path / "child" / "checkpoint.pt").exists()


def test_another_backbone_is_named(tiny, parent, tmp_path):
    values = child(tiny, backbone={"name": "resnet18"})
    with pytest.raises(DataError, match=r"weights of a ResNet: missing stages.*of another shape"):
        train(values, tmp_path / "child")


@pytest.fixture
def somebodys(tmp_path, monkeypatch):
    """A file as a training script leaves it, in $RM_DATA_DIR/weights: timm's ResNet-50 names,
    which are torchvision's, without the counters that old files lack.
    """
    network = timm.create_model("resnet50", num_classes=7)
    state = {
        f"module.{name}": v for name, v in network.state_dict().items() if "num_b" not in name
    }
    path = tmp_path / "weights" / "resnet50.pth"
    path.parent.mkdir()
    torch.save({"state_dict": state, "epoch": 3}, path)
    monkeypatch.setenv("RM_DATA_DIR", str(tmp_path))
    return network, path, hashlib.sha256(path.read_bytes()).hexdigest()


def test_somebodys_weights_load_under_their_librarys_names(somebodys, tmp_path):
    network, path, sha256 = somebodys
    backbone = registry.load("backbone", "imagenet_resnet50")(10, 3)
    for name in (path.name, str(path)):
        read = weights.read_init(Init(file=name, sha256=sha256), tmp_path / "runs" / "a")
        read.load_into(backbone)
        images = torch.randn(1, 3, 64, 64)
        ours = backbone.eval().features(images)
        assert torch.equal(ours, network.eval().forward_features(images))
    assert backbone.head.weight.shape == (10, 2048)
    general = registry.load("backbone", "timm")(10, 3, model="resnet50")
    read.load_into(general)
    assert torch.equal(general.eval().features(images), ours)


def test_a_wrong_file_is_named(somebodys, tmp_path):
    _, path, sha256 = somebodys
    with pytest.raises(DataError, match=r"there is no file .*other\.pth"):
        weights.read_init(Init(file="other.pth", sha256=sha256), tmp_path)
    with pytest.raises(DataError, match=rf"has sha256 {sha256}, not 00.*fetch it again"):
        weights.read_init(Init(file=path.name, sha256="00" * 32), tmp_path)
    path.write_text("no weights")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(DataError, match="is no file of weights"):
        weights.read_init(Init(file=path.name, sha256=sha256), tmp_path)
