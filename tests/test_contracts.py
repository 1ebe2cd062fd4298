"""Whatever is put into a folder keeps that folder's contract: methods, backbones, data sets,
backends, specs, found by scanning.
"""

import argparse
import inspect
from pathlib import Path

import numpy as np
import pytest
import torch

from launch import backends
from launch.backends import Backend
from launch.spec.load import load_spec
from rm import registry
from rm.backbones import Backbone
from rm.datasets import DataError, data_dir, load
from rm.methods import Method
from rm.schedules import StepContext
from tests.support.rm.training import assert_is_a_data_set

ROOT = Path(__file__).resolve().parents[1]
METHODS = [
    name
    for name, entry in registry.entries("method").items()
    if not entry.tasks or "classification" in entry.tasks  # others: tests/rm/test_contrastive.py
]
SPECS = sorted((ROOT / "experiments").rglob("*.yaml"))


@pytest.mark.parametrize("name", METHODS)
def test_a_method_trains_a_network(name):
    """Loss, logits and gradients at every step, whatever the batch; no tensor of the caller is
    changed.
    """
    torch.manual_seed(0)
    method = registry.load("method", name)()
    assert isinstance(method, Method)
    backbone = registry.load("backbone", "resnet8")(5, 3, width=8)
    if registry.missing_files(registry.check("method", {"name": name})[0], data_dir()):
        with pytest.raises(DataError, match="put there what can be had from"):
            method.wrap_model(backbone)
        return  # its own tests train it, with files they make
    model = method.wrap_model(backbone)
    generator = np.random.default_rng(0)
    method.start_epoch()
    for size in (8, 8, 3):
        images, targets = torch.randn(size, 3, 12, 16), torch.eye(5)[torch.randint(5, (size,))]
        before = images.clone(), targets.clone()
        output = method(model, images, targets, StepContext(generator))
        loss, logits = output.loss, output.logits
        assert loss.shape == ()
        assert torch.isfinite(loss)
        assert logits.shape == (size, 5)
        loss.backward()
        assert torch.equal(images, before[0])
        assert torch.equal(targets, before[1])
        assert all(np.isfinite(float(value)) for value in output.logs.values())
    assert backbone.head.weight.grad is not None
    again = registry.load("method", name)()
    again.load_state_dict(method.state_dict())


@pytest.mark.parametrize("name", registry.entries("dataset"))
def test_a_data_set_is_uint8_images_and_labels(name):
    try:
        data = load(name, {}, limit=20, test_limit=10)
    except DataError as error:
        pytest.skip(f"{name} is not on this machine and cannot be downloaded: {error}")
    assert_is_a_data_set(data, 20, 10)


@pytest.mark.parametrize("name", backends.NAMES)
def test_a_backend_is_one(name):
    """What it does not have it says so, and answers all the same."""
    backend = backends.get(name)
    assert issubclass(backend, Backend)
    assert not inspect.isabstract(backend)
    assert backend.name == name
    for what in ("jobs", "withdraw"):
        assert (what in vars(backend)) == backend.has_scheduler
    args = argparse.ArgumentParser()
    for each in backends.NAMES:
        backends.get(each).add_arguments(args.add_argument_group(each))
    configured = backend.from_args(args.parse_args([]))
    assert list(inspect.signature(configured.run).parameters) == ["run_dirs", "watcher", "limits"]
    assert configured.jobs([]) == {}


@pytest.mark.parametrize("path", SPECS, ids=lambda p: p.stem)
def test_a_spec_and_all_its_profiles_resolve(path):
    spec = load_spec(path)
    assert path.read_text(encoding="utf-8").startswith("# "), (
        "the first line says what it is and how many trials it has"
    )
    trials = {trial.id for trial in spec.trials}
    found = (
        spec.search.samples + len(spec.seeds) if spec.search else 0
    )  # a search's samples, and its winner's seeds
    assert f"{len(trials) + found} trials" in path.read_text(encoding="utf-8").splitlines()[0]
    for profile in spec.profiles:
        assert load_spec(path, profile).profile == profile


@pytest.mark.parametrize("name", registry.entries("backbone"))
def test_a_backbone_is_a_backbone(name):
    with torch.device("meta"):
        needed = {"model": "resnet10t"} if name == "timm" else {}
        backbone = registry.load("backbone", name)(7, 3, **needed)
        assert isinstance(backbone, Backbone)
        assert backbone.head.weight.shape == (7, backbone.num_features)
