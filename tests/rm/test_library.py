"""`rm.wrap`: the methods in anybody's loop are those of the specs."""

import copy
import os
import runpy
import subprocess
import sys

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import nn

import rm
from rm import registry
from rm.backbones.general import TimmModel
from rm.methods.recursive_mix import RecursiveMix
from rm.schedules import StepContext
from tests.support.trials import ROOT

CLASSES = 5


def batches(count=3, size=64, images=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        yield (
            torch.randn(images, 3, size, size, generator=generator),
            torch.randint(CLASSES, (images,), generator=generator),
        )


def losses(training, count=3, **options):
    """Of some steps of plain SGD."""
    optimizer = torch.optim.SGD(training.parameters(), lr=0.01, momentum=0.9)
    training.start_epoch()
    found = []
    for images, labels in batches(count, **options):
        loss = training(images, labels)
        optimizer.zero_grad(set_to_none=False)
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


def of_a_spec(backbone, generator, count=3, **options):
    """The same steps by the method as the trainer calls it."""
    method = RecursiveMix(alpha=0.9, omega=0.5)
    torch.manual_seed(1)
    network = method.wrap_model(backbone)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    method.start_epoch()
    found = []
    for images, labels in batches(count, **options):
        targets = nn.functional.one_hot(labels, CLASSES).float()
        loss = method.loss(network, images, targets, StepContext(generator)).loss
        optimizer.zero_grad(set_to_none=False)
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


def resnet8():
    torch.manual_seed(0)
    return registry.load("backbone", "resnet8")(CLASSES, 3, width=8)


def convnext():
    torch.manual_seed(0)
    return timm.create_model(
        "convnext_atto", num_classes=CLASSES, dims=(8, 16, 16, 24), depths=(1,) * 4
    )


@pytest.mark.parametrize("build", [resnet8, convnext])
def test_a_foreign_model_is_trained_as_in_a_spec(build):
    """To the loss's last digits: the map, the norm before the head and the second head are those
    that the project's own backbones have.
    """
    model = build()
    own = (
        TimmModel("convnext", copy.deepcopy(model)) if build is convnext else copy.deepcopy(model)
    )
    torch.manual_seed(1)
    training = rm.wrap(model, alpha=0.9, omega=0.5, seed=3)
    expected = of_a_spec(own, np.random.default_rng((3, 1)))
    assert losses(training) == pytest.approx(expected, rel=1e-6)
    assert training.last.logs["consistency_loss"] > 0


TIMM = {
    "resnet18": {"channels": (8, 8, 8, 16), "stem_width": 8},
    "vit_tiny_patch16_224": {"img_size": 64, "embed_dim": 24, "depth": 2},
    "pvt_v2_b0": {"depths": (1,) * 4, "embed_dims": (8, 16, 16, 16), "num_heads": (1, 1, 2, 2)},
    "swin_tiny_patch4_window7_224": {"img_size": 64, "window_size": 2, "embed_dim": 8,
                                     "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2)},
}  # fmt: skip


@pytest.mark.parametrize("name", TIMM)
def test_timms_families_have_a_region(name):
    """Maps with channels first and last, and tokens; the second head learns, and the model is as
    it was made: same names, same forward.
    """
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=CLASSES, **TIMM[name])
    names = list(model.state_dict())
    training = rm.wrap(model, alpha=1.0, omega=1.0)
    head = training.network.second_head
    before = head.weight.clone()
    assert np.isfinite(losses(training)).all()
    assert training.last.logs["consistency_loss"] > 0
    assert not torch.equal(head.weight, before)
    assert list(model.state_dict()) == names
    images, _ = next(batches(1))
    with torch.no_grad():
        assert torch.equal(training.eval()(images), model(images))


def test_torchvisions_norm_before_the_head_is_the_regions_too():
    torch.manual_seed(0)
    settings = [torchvision.models.convnext.CNBlockConfig(8, None, 2)]
    model = torchvision.models.ConvNeXt(settings, num_classes=CLASSES)
    training = rm.wrap(model, alpha=1.0, omega=1.0)
    assert np.isfinite(losses(training, size=16)).all()
    region = torch.randn(2, 8)
    expected = model.classifier[0](region[:, :, None, None]).flatten(1)
    assert torch.equal(training.backbone[0].pool_region(region), expected)


def test_a_loop_resumes_with_the_same_numbers():
    """From the state dicts alone, in the middle of an epoch."""

    def loop(cut):
        model = resnet8()
        training = rm.wrap(model, omega=0.5, alpha=0.9)
        optimizer = torch.optim.SGD(training.parameters(), lr=0.05, momentum=0.9)
        training.start_epoch()
        for i, (images, labels) in enumerate(batches(6)):
            if i == cut:
                saved = copy.deepcopy((training.state_dict(), optimizer.state_dict()))
                training = rm.wrap(resnet8(), omega=0.5, alpha=0.9)
                optimizer = torch.optim.SGD(training.parameters(), lr=0.05, momentum=0.9)
                training.load_state_dict(saved[0])
                optimizer.load_state_dict(saved[1])
            loss = training(images, labels)
            optimizer.zero_grad(set_to_none=False)
            loss.backward()
            optimizer.step()
        return loss.item()

    torch.manual_seed(0)
    whole = loop(None)
    torch.manual_seed(0)
    assert loop(3) == whole


def test_labels_are_whole_numbers_or_probabilities():
    training = rm.wrap(resnet8(), "mixup")
    images, labels = next(batches(1))
    soft = nn.functional.one_hot(labels, CLASSES).float()
    assert training(images, soft).ndim == 0
    with pytest.raises(ValueError, match=r"labels are \(4,\) whole numbers or \(4, 5\) prob"):
        training(images, soft.long())
    with pytest.raises(ValueError, match=r"found \(3,\) of int64"):
        training(images, labels[:3])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"method": "cutmx"}, "unknown method 'cutmx'; did you mean 'cutmix'?"),
        ({"alpha": 2.0}, "method.alpha: must satisfy 0 < alpha <= 1, found 2.0"),
        ({"omga": 0.5}, "has no option 'omga'; did you mean 'omega'?"),
        ({"history": False}, "without history there is no earlier prediction"),
        ({"method": "manifold_mixup"}, "acts inside a network, on its stages"),
        ({"method": "averaged"}, "deploys another network"),
        ({"method": "inter_intra"}, "is for contrastive training"),
        ({"head": "fc"}, "has no module 'fc'; it has"),
        ({"features": "layer9"}, "has no module 'layer9'"),
    ],
)
def test_what_cannot_be_is_said_at_once(options, said):
    with pytest.raises(ValueError, match=said.replace("?", r"\?")):
        rm.wrap(resnet8(), **options)
    with pytest.raises(TypeError, match="no linear layer"):
        rm.wrap(nn.Conv2d(3, 3, 1))


def test_a_map_of_one_cell_is_no_map():
    training = rm.wrap(torchvision.models.resnet18(num_classes=CLASSES, norm_layer=nn.Identity))
    training.start_epoch()
    first, second = batches(2, size=16)
    training(*first)
    with pytest.raises(ValueError, match="at 16×16 pixels"):
        training(*second)


def test_importing_rm_imports_no_torch():
    code = "import rm, sys; assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_examples_run(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["own_loop.py", "--epochs", "1", "--images", "64"])
    runpy.run_path(str(ROOT / "examples" / "own_loop.py"), run_name="__main__")
    assert "epoch 1: loss" in capsys.readouterr().out
    plain = torchvision.models.resnet18(num_classes=10)
    plain.load_state_dict(torch.load(tmp_path / "resnet18.pt", weights_only=True))
    words = [
        "timm_loop.py",
        "--model",
        "pvt_v2_b0",
        "--steps",
        "2",
        "--size",
        "64",
        "--batch-size",
        "4",
    ]
    monkeypatch.setattr(sys, "argv", words)
    runpy.run_path(str(ROOT / "examples" / "timm_loop.py"), run_name="__main__")
    assert "step 2: loss" in capsys.readouterr().out


@pytest.mark.cluster
def test_lightning_trains_it():
    """In a process of its own: Lightning sets handlers and devices for all of its process."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "lightning_loop.py"), "1", "64"],
        capture_output=True,
        text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stderr
    assert "after 1 epochs: loss" in done.stdout
