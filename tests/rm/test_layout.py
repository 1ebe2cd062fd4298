"""Sheets and minimal filtering give what plain convolutions give, but for rounding."""

import pytest
import torch
from torch import nn

from rm.backbones._layout import (
    SheetConv2d,
    WinogradConv2d,
    WinogradOrSheetConv2d,
    use_convolutions,
)
from rm.backbones._winograd import winograd
from rm.trainer import Trainer
from rm.trial import parse_trial
from tests.support.rm.training import assert_equal_runs, train

WIDE = {"name": "resnet18"}


def passes(conv, images):
    """Output, gradients of the input, of weights and bias."""
    images = images.clone(memory_format=torch.preserve_format).requires_grad_()
    maps = conv(images)
    maps.float().pow(2).sum().backward()
    return maps.detach(), images.grad, *(p.grad for p in conv.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("height", "width"), [(4, 4), (3, 4), (7, 3), (1, 1), (4, 2), (8, 8)])
@pytest.mark.parametrize("count", [2, 6, 32])
def test_a_sheet_convolves_each_image_alone(dtype, stride, height, width, count, monkeypatch):
    """Against nn.Conv2d in fp32: in bf16 that is wrong where maps become one pixel wide."""
    monkeypatch.setattr(SheetConv2d, "makes_sheets", lambda self, maps: True)
    torch.manual_seed(0)
    sheets = SheetConv2d(64, 48, 3, stride, 1, dtype=dtype).to(memory_format=torch.channels_last)
    plain = nn.Conv2d(64, 48, 3, stride, 1).to(memory_format=torch.channels_last)
    plain.load_state_dict(sheets.state_dict())
    images = torch.randn(count, 64, height, width, dtype=dtype)
    images = images.to(memory_format=torch.channels_last)
    found = passes(sheets, images)
    assert found[0].permute(0, 2, 3, 1).is_contiguous()
    for one, other in zip(passes(plain, images.float()), found, strict=True):
        assert one.shape == other.shape
        limit = 2e-2 if dtype == torch.bfloat16 else 1e-5
        assert (one - other).abs().max() <= limit * one.abs().max()


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_batch_that_makes_no_sheets_is_convolved_as_it_is(count, monkeypatch):
    """None at all too, as a detector's head may be given."""
    monkeypatch.setattr(SheetConv2d, "makes_sheets", lambda self, maps: True)
    conv = SheetConv2d(512, 512, 3, padding=1).to(memory_format=torch.channels_last)
    images = torch.randn(count, 512, 4, 4).to(memory_format=torch.channels_last)
    assert torch.equal(conv(images), nn.Conv2d.forward(conv, images))


def test_small_maps_of_wide_layers_are_taken():
    def takes(channels, filters, side, dtype, stride=1, layout=torch.channels_last):
        conv = SheetConv2d(channels, filters, 3, stride, 1, dtype=dtype)
        return conv.makes_sheets(
            torch.zeros(2, channels, side, side, dtype=dtype).to(memory_format=layout)
        )

    assert takes(512, 512, 2, torch.float32)
    assert takes(256, 512, 4, torch.float32, stride=2)
    assert takes(512, 512, 8, torch.bfloat16)
    assert takes(64, 128, 16, torch.bfloat16, stride=2)
    assert not takes(512, 512, 4, torch.float32)
    assert not takes(128, 128, 2, torch.float32)
    assert not takes(512, 512, 16, torch.bfloat16)
    assert not takes(32, 32, 4, torch.bfloat16)
    assert not takes(512, 512, 2, torch.float32, layout=torch.contiguous_format)
    assert not takes(512, 512, 2, torch.float64)


@pytest.mark.parametrize(
    ("count", "channels", "filters", "height", "width"),
    [(2, 64, 48, 8, 8), (3, 24, 40, 4, 4), (2, 16, 16, 7, 9), (5, 8, 4, 4, 13), (1, 3, 2, 1, 1)],
)
def test_minimal_filtering_rounds_a_little_more(count, channels, filters, height, width):
    torch.manual_seed(0)
    images = torch.randn(count, channels, height, width).to(memory_format=torch.channels_last)
    conv = nn.Conv2d(channels, filters, 3, padding=1, bias=False)
    weights, exact = conv.weight, nn.Conv2d(channels, filters, 3, padding=1, bias=False).double()
    exact.load_state_dict(conv.state_dict())
    images.requires_grad_()
    maps = winograd(images, weights)
    assert maps.is_contiguous(memory_format=torch.channels_last)
    maps.pow(2).sum().backward()
    found = maps.detach(), images.grad, weights.grad
    for one, other in zip(passes(exact, images.detach().double()), found, strict=True):
        assert one.shape == other.shape
        assert (one - other).abs().max() <= 3e-5 * one.abs().max()


def test_minimal_filtering_gives_no_more_gradients_than_are_wanted():
    images = torch.randn(2, 4, 8, 8).to(memory_format=torch.channels_last)
    weights = torch.randn(3, 4, 3, 3, requires_grad=True)
    winograd(images, weights).sum().backward()
    assert images.grad is None
    assert weights.grad is not None
    frozen = weights.detach()
    images.requires_grad_()
    winograd(images, frozen).sum().backward()
    assert images.grad is not None
    with torch.inference_mode():
        assert torch.equal(winograd(images, frozen), winograd(images, frozen))


def test_a_bias_is_added():
    torch.manual_seed(0)
    conv = WinogradConv2d(64, 80, 3, padding=1).to(memory_format=torch.channels_last)
    images = torch.randn(8, 64, 8, 8).to(memory_format=torch.channels_last)
    assert conv.filters_minimally(images)
    plain = nn.Conv2d.forward(conv, images)
    assert not torch.equal(conv(images), plain)
    assert (conv(images) - plain).abs().max() <= 3e-5 * plain.abs().max()


def test_minimal_filtering_is_for_layers_with_enough_to_multiply():
    def takes(channels, filters, side, count=32, stride=1, dtype=torch.float32):
        conv = WinogradConv2d(channels, filters, 3, stride, 1)
        maps = torch.zeros(count, channels, side, side, dtype=dtype)
        return conv.filters_minimally(maps.to(memory_format=torch.channels_last))

    assert takes(512, 512, 4)
    assert takes(64, 64, 32)
    assert takes(256, 256, 7)
    assert takes(256, 256, 64, count=1)
    assert not takes(512, 512, 4, count=8)
    assert not takes(512, 512, 4, count=0)
    assert not takes(512, 512, 2)
    assert not takes(256, 256, 5)
    assert not takes(64, 32, 32)
    assert not takes(64, 128, 32, stride=2)
    assert not takes(64, 64, 32, dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        assert not takes(512, 512, 4)


@pytest.mark.parametrize(
    ("side", "way"), [(2, SheetConv2d), (4, WinogradConv2d), (5, nn.Conv2d)], ids=str
)
def test_each_map_goes_the_way_that_takes_less_time(side, way):
    torch.manual_seed(0)
    either = WinogradOrSheetConv2d(256, 256, 3, padding=1).to(memory_format=torch.channels_last)
    images = torch.randn(32, 256, side, side).to(memory_format=torch.channels_last)
    assert torch.equal(either(images), way.forward(either, images))


def test_only_plain_3x3_convolutions_are_changed():
    changed = [nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, 2, 1, bias=False)]
    kept = [
        nn.Conv2d(8, 8, 1),
        nn.Conv2d(8, 8, 3),
        nn.Conv2d(8, 8, 3, padding="same"),
        nn.Conv2d(8, 8, 3, padding=2, dilation=2),
        nn.Conv2d(8, 8, 3, padding=1, groups=2),
        nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular"),
        nn.ConvTranspose2d(8, 8, 3, padding=1),
    ]
    model = nn.Sequential(*changed, *kept)
    use_convolutions(model, SheetConv2d)
    assert {type(one) for one in changed} == {SheetConv2d}
    assert SheetConv2d not in {type(one) for one in kept}


@pytest.mark.parametrize(
    ("option", "precision"), [("sheets", "fp32"), ("sheets", "bf16"), ("winograd", "fp32")]
)
def test_a_training_goes_the_same_way(tiny, option, precision):
    tiny["backbone"] = WIDE
    tiny["train"] |= {"precision": precision, "batch_size": 8}
    outputs = []
    for chosen in (False, True):
        tiny["train"][option] = chosen
        trainer = Trainer(parse_trial(tiny), torch.device("cpu"))
        outputs.append([float(trainer.train_step().loss.detach()) for _ in range(2)])
        trainer.close()
    assert outputs[0][0] == pytest.approx(outputs[1][0], rel=1e-4 * (option == "winograd"))
    assert outputs[0][1] == pytest.approx(outputs[1][1], rel=0.02)
    assert outputs[0] != outputs[1] or option == "sheets"


def test_an_interrupted_training_ends_with_the_same_bits(tiny, tmp_path):
    tiny["backbone"] = WIDE
    tiny["dataset"]["limit"] = 24
    tiny["train"] |= {"sheets": True, "winograd": True, "batch_size": 8}
    train(tiny, tmp_path / "undisturbed")
    train(tiny, tmp_path / "stopped", stop_before=(2,))
    assert_equal_runs(tmp_path / "undisturbed", tmp_path / "stopped")
