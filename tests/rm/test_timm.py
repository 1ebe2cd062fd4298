"""The general timm backbone: nested classifiers, plain names, what one without a map cannot."""

import numpy as np
import pytest
import timm
import torch

from rm import registry
from rm.methods.recursive_mix import RecursiveMix
from rm.schedules import StepContext
from rm.train import fit
from rm.trial import TrialError, parse_trial

MAPS = {
    "convnext_atto": ("head.fc", 320),
    "swin_tiny_patch4_window7_224": ("head.fc", 768),
    "mobilenetv3_small_050": ("classifier", 288),
    "resnet10t": ("fc", 512),
}


def build(model, **options):
    torch.manual_seed(0)
    return registry.load("backbone", "timm")(7, 3, model=model, **options)


@pytest.mark.parametrize("model", [*MAPS, "vit_tiny_patch16_224"])
def test_it_computes_what_timms_own_does(model):
    ours, theirs = build(model).eval(), timm.create_model(model, num_classes=7).eval()
    theirs.load_state_dict(ours.plain_state_dict(), strict=True)
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        assert torch.equal(ours(images), theirs(images))
        features = ours.features(images)
    assert ours.has_map == (model in MAPS)
    if ours.has_map:
        name, channels = MAPS[model]
        assert f"{name}.weight" in ours.plain_state_dict()
        assert features.shape == (2, channels, 7, 7), "channels first, whatever timm does"


@pytest.mark.parametrize("model", ["convnext_atto", "mobilenetv3_small_050"])
def test_recursive_mix_reads_regions_of_its_last_map(model):
    """Through the norms that timm has between pooling and classifier."""
    method = RecursiveMix(alpha=0.9, omega=0.5)
    network = method.wrap_model(build(model))
    step = StepContext(np.random.default_rng(0))
    for _ in range(2):
        images, targets = torch.randn(4, 3, 64, 64), torch.eye(7)[:4]
        output = method(network, images, targets, step)
    assert float(output.logs["consistency_loss"]) > 0
    output.loss.backward()
    assert network.second_head.weight.grad.abs().sum() > 0


def test_a_region_as_large_as_the_image_is_pooled_as_the_image_is():
    network = RecursiveMix(omega=0.5, share_head=True).wrap_model(build("convnext_atto")).eval()
    images = torch.randn(2, 3, 64, 64)
    logits, region = network(images, (0, 0, 64, 64))
    torch.testing.assert_close(logits, region, atol=1e-5, rtol=1e-5)


def test_what_cannot_be_is_said_when_it_is_built():
    with pytest.raises(TrialError, match="vit_tiny_patch16_224 ends in tokens: `omega: 0`"):
        RecursiveMix().wrap_model(build("vit_tiny_patch16_224"))
    assert RecursiveMix(omega=0.0).wrap_model(build("vit_tiny_patch16_224"))
    with pytest.raises(TrialError, match="has no model 'convnext_tinny'; did you mean convnext_t"):
        build("convnext_tinny")
    with pytest.raises(TrialError, match="ends in a RepVitClassifier, not in one linear"):
        build("repvit_m0_9")
    with pytest.raises(TrialError, match="does not take"):
        build("vgg11", drop_path_rate=0.1)


def test_it_trains(tiny, tmp_path):
    tiny["dataset"] |= {"limit": 20, "test_limit": 10, "size": 32}
    tiny["backbone"] = {"name": "timm", "model": "convnext_atto", "drop_path_rate": 0.1}
    tiny["train"] |= {"epochs": 2, "batch_size": 10}
    assert "last_top1_error" in fit(parse_trial(tiny), tmp_path)["metrics"]
