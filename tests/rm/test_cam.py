"""Class activation maps: exact, of the first head, and what is kept of them."""

import json
import shutil

import pytest
import torch
from torchvision.io import decode_image

from rm import registry
from rm.datasets import DataError
from rm.methods.recursive_mix import RecursiveMix
from rm.probes.cam import activation_maps, cam
from rm.rundir.weights import InitialWeights
from rm.trial import TrialError, parse_trial
from tests.support.trials import ROOT, TINY

CPU = torch.device("cpu")
SAMPLES = ROOT / "tests" / "data"
NETWORK = {"name": "timm", "model": "test_resnet"}


class Log(list):
    """A probe's log with weights to start from."""

    def __init__(self, init):
        super().__init__()
        self.init, self.kept = init, {}

    def initial_weights(self):
        return self.init

    def log_point(self, **values):
        self.append(values)

    def save_artifact(self, name, content):
        self.kept[name] = content

    def raise_if_stopped(self):
        pass


def network(classes=1000, model="test_resnet"):
    torch.manual_seed(3)
    return registry.load("backbone", "timm")(classes, 3, model=model).eval()


def weights_of(backbone, part="model"):
    state = {backbone.plain_name(name): value for name, value in backbone.state_dict().items()}
    return InitialWeights(state, part, SAMPLES / "weights.pt", "0")


def measured(log, **options):
    probe = {"name": "cam", "size": 64, **options}
    trial = parse_trial({**TINY, "backbone": NETWORK, "probe": probe})
    return cam(trial, CPU, log, **trial.options("probe"))


@pytest.fixture(autouse=True)
def _samples(monkeypatch):
    monkeypatch.setenv("RM_DATA_DIR", str(SAMPLES))


def test_the_mean_of_a_map_and_the_bias_are_the_logit():
    backbone, images = network(), torch.randn(1, 3, 96, 64)
    classes, maps = activation_maps(backbone, images, [5, 17])
    logits = backbone(images)
    assert maps.shape == (1, 2, 3, 2)
    bias = backbone.head.bias[classes]
    assert torch.allclose(maps.mean((2, 3)) + bias, logits[:, classes], atol=1e-5)
    top, _ = activation_maps(backbone, images)
    assert top == logits[0].topk(2).indices.tolist()


def test_the_second_head_has_no_influence(tmp_path):
    """RM's own is no part of what it leaves."""
    backbone, images = network(), torch.randn(1, 3, 64, 64)
    method = RecursiveMix(alpha=0.5, omega=0.5)
    model = method.wrap_model(backbone)
    deployed = method.deployed(model)
    _, before = activation_maps(deployed, images, [1])
    others = {id(p) for p in deployed.parameters()}
    with torch.no_grad():
        for parameter in model.parameters():
            if id(parameter) not in others:
                parameter.fill_(7.0)
    assert any(id(p) not in others for p in model.parameters())
    assert torch.equal(activation_maps(deployed, images, [1])[1], before)


def test_each_picture_is_kept_with_a_map_of_each_class():
    log = Log(weights_of(network()))
    found = measured(log, mixed=True)
    listed = json.loads((SAMPLES / "cam-sample" / "pictures.json").read_text())
    named = [len(classes) for classes in listed.values()]
    mixed = [2] * (len(named) - 1)
    assert sorted(log.kept) == [f"cam{n}.png" for n in range(1, 10)]
    assert len(log) == sum(named) + sum(mixed)
    assert {(p["picture"], p["class"]) for p in log} >= {(1, 659), (1, 950), (1, 937), (6, 817)}
    assert all(0 <= point["share"] <= 100 for point in log)
    assert found == {"cam": pytest.approx(sum(p["share"] for p in log) / len(log))}
    for number, classes in enumerate(named + mixed, 1):
        content = torch.frombuffer(bytearray(log.kept[f"cam{number}.png"]), dtype=torch.uint8)
        assert decode_image(content).shape == (3, 64, 64 * (1 + classes))


def test_a_map_within_its_box_has_all_of_it(monkeypatch, tmp_path):
    """A picture whose class has the whole square as its box, and one whose box was cut away."""
    shutil.copytree(SAMPLES / "coco-sample" / "val2017", tmp_path / "maps")
    file = next((tmp_path / "maps").glob("*.jpg")).name
    boxes = {"all": {"class": 1, "boxes": [[-9, -9, 999, 999]]},
             "none": {"class": 2, "boxes": [[900, 900, 990, 990]]}}  # fmt: skip
    (tmp_path / "maps" / "pictures.json").write_text(json.dumps({file: boxes}))
    monkeypatch.setenv("RM_DATA_DIR", str(tmp_path))
    log = Log(weights_of(network()))
    measured(log, pictures="maps")
    assert [point["share"] for point in log] == [pytest.approx(100), 0]
    both = Log(weights_of(network(10)))
    measured(both, pictures="maps", classes="top2")
    assert [point["share"] for point in both] == [pytest.approx(100)] * 2
    (tmp_path / "maps" / file).write_bytes(b"no picture")
    with pytest.raises(DataError, match=rf"{file}, listed in .*pictures\.json"):
        measured(log, pictures="maps")
    (tmp_path / "maps" / "pictures.json").unlink()
    with pytest.raises(DataError, match=r"pictures\.json cannot be read"):
        measured(log, pictures="maps")


def test_what_has_no_such_maps_is_refused():
    with pytest.raises(TrialError, match="need a trained head: init with `part: model`"):
        measured(Log(None))
    with pytest.raises(TrialError, match="need a trained head"):
        measured(Log(weights_of(network(), "backbone")))
    gated = network(10, "test_convnext")  # a norm between its pooling and its head
    with pytest.raises(TrialError, match="need average pooling before the head; test_convnext"):
        activation_maps(gated, torch.randn(1, 3, 64, 64), [1])
