"""StyleCutMix and its style networks, with random weights in the files' format."""

import numpy as np
import pytest
import torch
from torch import nn

from rm import registry
from rm.datasets import DataError
from rm.methods._style import adain, decoder, encoder, load_style_transfer
from rm.methods.stylecutmix import StyleCutMix, load_distances
from rm.ops import mixed_area, sample_box
from rm.schedules import StepContext
from tests.support.rm.networks import Recorder, targets_used
from tests.support.rm.training import assert_equal_runs, train


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Networks of random weights in the format of the published files, VGG with one layer more
    than is used.
    """
    folder = tmp_path_factory.mktemp("style")
    torch.manual_seed(0)
    vgg = nn.Sequential(*encoder(), nn.ReflectionPad2d(1), nn.Conv2d(512, 8, 3))
    torch.save(vgg.state_dict(), folder / "vgg_normalised.pth")
    torch.save(decoder().state_dict(), folder / "decoder.pth.tar")
    distances = np.abs(np.subtract.outer(np.arange(10), np.arange(10))) / 10
    np.savetxt(folder / "styleDistanceMatrix10", distances, delimiter=",")
    return folder


def styled(weights, **options):
    method = StyleCutMix(weights=str(weights), resolution=16, probability=1.0, **options)
    return method, method.wrap_model(registry.load("backbone", "resnet8")(10, 3, width=8))


def test_the_style_networks_have_the_published_layers(weights):
    convolutions = {
        0: 3,
        2: 64,
        5: 64,
        9: 128,
        12: 128,
        16: 256,
        19: 256,
        22: 256,
        25: 256,
        29: 512,
    }
    assert {
        i: m.out_channels for i, m in enumerate(encoder()) if isinstance(m, nn.Conv2d)
    } == convolutions
    mirrored = {1: 256, 5: 256, 8: 256, 11: 256, 14: 128, 18: 128, 21: 64, 25: 64, 28: 3}
    assert {
        i: m.out_channels for i, m in enumerate(decoder()) if isinstance(m, nn.Conv2d)
    } == mirrored
    style = load_style_transfer(weights, {})
    assert style.encode(torch.rand(1, 3, 24, 32)).shape == (1, 512, 3, 4)
    assert not any(parameter.requires_grad for parameter in style.parameters())


def test_adain_gives_the_moments_of_the_style():
    content, wanted = torch.randn(2, 4, 9, 7), 3 + 2 * torch.randn(2, 4, 5, 6)
    got = adain(content, wanted)
    assert torch.allclose(got.mean((2, 3)), wanted.mean((2, 3)), atol=1e-5)
    assert torch.allclose(got.std((2, 3)), wanted.std((2, 3)), rtol=1e-4)
    assert torch.allclose(adain(content, content), content, atol=1e-4)


def test_stylecutmix_pixels_and_labels(weights):
    method, _ = styled(weights)
    images = torch.rand(6, 3, 16, 16)
    targets = torch.eye(10)[torch.tensor([0, 3, 3, 9, 1, 0])]
    for seed in range(3):
        model = Recorder(10)
        loss, logits, _, logs = method.loss(
            model, images, targets, StepContext(np.random.default_rng(seed))
        )
        generator = np.random.default_rng(seed)
        partner = [generator.random(), generator.permutation(6)][1]
        own_style, area = generator.beta(1, 1), generator.beta(1, 1)
        box = sample_box((16, 16), area, generator)
        area, distances = mixed_area(box, (16, 16)), load_distances(weights, 10)
        kept = torch.tanh(distances[targets.argmax(1), targets[partner].argmax(1)])
        share = 0.7 * area + 0.3 * (kept * area + (1 - kept) * own_style)
        wanted = share[:, None] * targets + (1 - share[:, None]) * targets[partner]
        assert torch.allclose(targets_used(loss, logits), wanted, atol=1e-4)
        assert torch.allclose(wanted.sum(1), torch.ones(6))
        assert logs["area"] == pytest.approx(1 - area)
        one, two, g = images, images[partner], kept[:, None, None, None]
        features = [method.style.encode(image) for image in (one, two)]
        inside = own_style * one + (1 - own_style) * (
            g * one + (1 - g) * method.style.restyle(*features)
        )
        outside = (1 - own_style) * two + own_style * (
            g * two + (1 - g) * method.style.restyle(*features[::-1])
        )
        mask = torch.zeros(16, 16)
        mask[box[0] : box[2], box[1] : box[3]] = 1
        assert torch.allclose(model.shown[0], mask * inside + (1 - mask) * outside, atol=1e-5)


def test_where_all_of_an_image_is_kept_stylecutmix_is_cutmix(weights):
    method, _ = styled(weights)
    for channels in (1, 3):
        images, partner = torch.rand(4, channels, 16, 16), torch.tensor([2, 3, 0, 1])
        mixed = method.mixed(images, partner, torch.ones(4), 0.3, (2, 0, 9, 12))
        expected = images[partner].clone()
        expected[:, :, 2:9, :12] = images[:, :, 2:9, :12]
        assert torch.allclose(mixed, expected, atol=1e-6)
        assert (
            method.mixed(images, partner, torch.zeros(4), 0.3, (2, 0, 9, 12)) - expected
        ).abs().max() > 0.01


def test_stylecutmix_trains_the_backbone_alone(weights):
    method, model = styled(weights, gamma="random")
    assert (
        model.state_dict().keys()
        == registry.load("backbone", "resnet8")(10, 3, width=8).state_dict().keys()
    )
    loss, *_ = method.loss(
        model, torch.rand(4, 3, 12, 20), torch.eye(10)[:4], StepContext(np.random.default_rng(0))
    )
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert all(parameter.grad is None for parameter in method.style.parameters())


def test_stylecutmix_resumes_bit_for_bit(weights, tiny, tmp_path):
    tiny["method"] = {"name": "stylecutmix", "weights": str(weights), "resolution": 16}
    tiny["train"]["epochs"] = 2
    train(tiny, tmp_path / "undisturbed")
    train(tiny, tmp_path / "stopped", stop_before=(3, 6))
    assert_equal_runs(tmp_path / "undisturbed", tmp_path / "stopped")


def test_stylecutmix_says_what_is_missing_and_where_it_is(weights, tmp_path, monkeypatch):
    monkeypatch.setenv("RM_DATA_DIR", str(tmp_path))
    backbone = registry.load("backbone", "resnet8")(10, 3, width=8)
    with pytest.raises(
        DataError,
        match=r"stylecutmix has no vgg_normalised.pth and no decoder.pth.tar; "
        r".*pytorch-AdaIN/releases.*804ca2.*379ca4",
    ):
        StyleCutMix().wrap_model(backbone)
    with pytest.raises(DataError, match=r"decoder.pth.tar has SHA-256 \w{64}, not 00: fetch"):
        StyleCutMix(weights=str(weights), decoder_sha256="00").wrap_model(backbone)
    with pytest.raises(DataError, match="styleDistanceMatrix7: no readable table"):
        StyleCutMix(weights=str(weights)).wrap_model(
            registry.load("backbone", "resnet8")(7, 3, width=8)
        )
    for name in ("vgg_normalised.pth", "decoder.pth.tar"):
        (tmp_path / name).write_bytes(b"<html>not found</html>")
    with pytest.raises(DataError, match=r"vgg_normalised.pth does not hold the weights"):
        StyleCutMix(weights=str(tmp_path)).wrap_model(backbone)
