"""Grouped batch norm against separate networks on separate shares of the batch."""

import copy

import pytest
import torch
from torch import nn

from rm.backbones._ghost_norm import group_batch_norm


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 4, 3), nn.BatchNorm2d(4)
    ).double()


@pytest.mark.parametrize("size", [8, 7])
def test_each_group_is_normalised_as_on_a_device_of_its_own(size):
    grouped, devices = network(), [network(), network()]
    group_batch_norm(grouped, 2)
    images = torch.randn(size, 3, 9, 7, dtype=torch.float64)
    expected = torch.cat(
        [device(part) for device, part in zip(devices, images.chunk(2), strict=True)]
    )
    assert torch.allclose(grouped(images), expected, atol=1e-12)
    for name, buffer in grouped.named_buffers():
        assert torch.allclose(buffer, dict(devices[0].named_buffers())[name]), (
            f"{name} is device 0's"
        )
    grouped(images).square().sum().backward()
    expected.square().sum().backward()
    for name, parameter in grouped.named_parameters():
        shares = [dict(device.named_parameters())[name].grad for device in devices]
        assert torch.allclose(parameter.grad, shares[0] + shares[1], atol=1e-9)


def test_evaluation_and_state_are_those_of_batch_norm():
    plain = network()
    grouped = copy.deepcopy(plain)
    group_batch_norm(grouped, 2)
    assert grouped.state_dict().keys() == plain.state_dict().keys()
    images = torch.randn(4, 3, 9, 9, dtype=torch.float64)
    assert torch.equal(grouped.eval()(images), plain.eval()(images))
    untouched = copy.deepcopy(plain)
    group_batch_norm(untouched, 1)
    assert all(type(module) is not type(grouped[1]) for module in untouched.modules())
