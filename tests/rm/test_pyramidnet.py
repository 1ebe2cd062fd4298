"""PyramidNet: borders, shortcuts, widths and initialisation of the reference code."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from rm.backbones.pyramidnet import AddIntoFirstChannels, PyramidNet


@pytest.mark.parametrize(("size", "expected"), [((15, 9), (4, 3)), ((7, 18), (2, 5))])
def test_pyramidnet_keeps_the_border_of_odd_maps(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    features = PyramidNet(11, 12, 5, 1).features(torch.randn(2, 1, *size))
    assert features.shape[2:] == expected


def zero_padded_sum(branch: Tensor, shortcut: Tensor) -> Tensor:
    """What the reference code computes: the shortcut concatenated with zero channels, plus the
    branch.
    """
    return branch + functional.pad(shortcut, (0, 0, 0, 0, 0, branch.shape[1] - shortcut.shape[1]))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("channels", [4, 6])
def test_pyramidnet_shortcut_equals_zero_padding(
    channels: int, layout: torch.memory_format
) -> None:
    branch = torch.randn(2, 6, 3, 5, dtype=torch.double).to(memory_format=layout).requires_grad_()
    shortcut = (
        torch.randn(2, channels, 3, 5, dtype=torch.double)
        .to(memory_format=layout)
        .requires_grad_()
    )
    before = branch.detach().clone()
    total = AddIntoFirstChannels.apply(branch, shortcut)
    assert torch.equal(total, zero_padded_sum(branch, shortcut))
    assert torch.equal(branch, before)
    assert total.is_contiguous(memory_format=layout)
    assert torch.autograd.gradcheck(AddIntoFirstChannels.apply, (branch, shortcut))
    assert torch.autograd.gradgradcheck(AddIntoFirstChannels.apply, (branch, shortcut))


def test_pyramidnet_initialisation() -> None:
    torch.manual_seed(0)
    network = PyramidNet(20, 90, 10, 3)
    for conv in (m for m in network.modules() if isinstance(m, nn.Conv2d)):
        expected = (2 / (conv.kernel_size[0] ** 2 * conv.out_channels)) ** 0.5
        weights = conv.weight.detach().flatten() / expected
        # Within five standard errors of a standard normal's mean and standard deviation.
        assert abs(float(weights.mean())) < 5 / len(weights) ** 0.5
        assert abs(float(weights.std()) - 1) < 5 / (2 * len(weights)) ** 0.5
        assert conv.bias is None
    for norm in (m for m in network.modules() if isinstance(m, nn.BatchNorm2d)):
        assert torch.equal(norm.weight, torch.ones_like(norm.weight))
        assert torch.equal(norm.bias, torch.zeros_like(norm.bias))
    assert float(network.head.weight.detach().abs().max()) <= network.num_features**-0.5


@pytest.mark.parametrize(("depth", "alpha", "step"), [(164, 270, 5.0), (200, 240, 240 / 66)])
def test_pyramidnet_widens_additively(depth: int, alpha: int, step: float) -> None:
    with torch.device("meta"):
        network = PyramidNet(depth, alpha, 10, 3)
    widths = [b.branch[1].out_channels for b in network.blocks]
    exact, expected = 16.0, []
    for (
        _
    ) in widths:  # the reference adds the step up in floating point; the rounded widths must agree
        exact += step
        expected.append(round(exact))
    assert widths == expected
    assert widths[-1] == 16 + alpha


@pytest.mark.parametrize("depth", [2, 111, 199])
def test_pyramidnet_rejects_other_depths(depth: int) -> None:
    with pytest.raises(ValueError, match=f"9n \\+ 2.*not {depth}"):
        PyramidNet(depth, 240, 10, 3)
