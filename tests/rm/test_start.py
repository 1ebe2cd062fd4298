"""The weights that the second paper's networks start from."""

import pytest
import torch
from torch import nn

from rm import registry


def build(name):
    return registry.load("backbone", name)


STARTED = ["resnet18", "resnext50_32x4d", *(f"imagenet_resnet{n}" for n in (18, 34, 50, 101))]
STARTED += ["imagenet_resnext50_32x4d"]


@pytest.mark.parametrize("name", ["resnet18", "imagenet_resnet18"])
def test_openmixups_start(name):
    """Deviations by fan_out, residual branches that begin as nothing, a head near 0."""
    torch.manual_seed(0)
    network = build(name)(10, 3, start="openmixup")
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    for conv in convolutions:
        fan_out = conv.weight.numel() / conv.in_channels * conv.groups
        assert conv.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1)
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    branches = network.residual_branches()
    assert sum(not m.weight.any() for m in norms) == len(branches) == 8
    assert all((m.weight == 1).all() for m in norms if m.weight.any())
    assert network.head.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert not network.head.bias.any()
    torch.manual_seed(0)
    plain = build(name)(10, 3)
    torch.manual_seed(0)
    same = build(name)(10, 3, start="torch")
    pairs = zip(plain.state_dict().values(), same.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("name", STARTED)
def test_networks_of_the_second_paper_have_its_start(name):
    with torch.device("meta"):
        branches = build(name)(7, 3, start="openmixup").residual_branches()
    assert all(any(isinstance(m, nn.BatchNorm2d) for m in b.modules()) for b in branches)
