"""Sheets give what a convolution of each image alone gives, but for the order of sums."""

import pytest
import torch
from torch import nn

from rm.backbones._layout import SheetConv2d, use_sheets
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
    monkeypatch.setattr(SheetConv2d, "takes", lambda self, maps: True)
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
    monkeypatch.setattr(SheetConv2d, "takes", lambda self, maps: True)
    conv = SheetConv2d(512, 512, 3, padding=1).to(memory_format=torch.channels_last)
    images = torch.randn(count, 512, 4, 4).to(memory_format=torch.channels_last)
    assert torch.equal(conv(images), nn.Conv2d.forward(conv, images))


def test_small_maps_of_wide_layers_are_taken():
    def takes(channels, filters, side, dtype, stride=1, layout=torch.channels_last):
        conv = SheetConv2d(channels, filters, 3, stride, 1, dtype=dtype)
        return conv.takes(
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
    use_sheets(model)
    assert {type(one) for one in changed} == {SheetConv2d}
    assert SheetConv2d not in {type(one) for one in kept}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_training_goes_the_same_way(tiny, precision):
    tiny["backbone"] = WIDE
    tiny["train"] |= {"precision": precision, "batch_size": 8}
    outputs = []
    for sheets in (False, True):
        tiny["train"]["sheets"] = sheets
        trainer = Trainer(parse_trial(tiny), torch.device("cpu"))
        outputs.append([float(trainer.train_step().loss.detach()) for _ in range(2)])
        trainer.close()
    assert outputs[0][0] == outputs[1][0]
    assert outputs[0][1] == pytest.approx(outputs[1][1], rel=0.02)


def test_an_interrupted_training_ends_with_the_same_bits(tiny, tmp_path):
    tiny["backbone"] = WIDE
    tiny["dataset"]["limit"] = 24
    tiny["train"] |= {"sheets": True, "batch_size": 8}
    train(tiny, tmp_path / "undisturbed")
    train(tiny, tmp_path / "stopped", stop_before=(2,))
    assert_equal_runs(tmp_path / "undisturbed", tmp_path / "stopped")
