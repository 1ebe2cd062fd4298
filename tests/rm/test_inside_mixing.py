"""Manifold Mixup, MoEx, CutMix + MoEx and feature CutMix: what is mixed, where, and that the
labels say so.
"""

import numpy as np
import pytest
import torch
from torch import nn

from rm.backbones.resnet import resnet8
from rm.methods.cutmix_moex import CutMixMoEx
from rm.methods.feature_cutmix import FeatureCutMix
from rm.methods.manifold_mixup import ManifoldMixup
from rm.methods.mixup import Mixup
from rm.methods.moex import MoEx, exchange_moments
from rm.ops import soft_cross_entropy
from rm.schedules import StepContext
from tests.support.rm.networks import batch, draws, labels_of, next_input, stage_maps, targets_used


def drawn(seed, size, alpha=1.0):
    generator = draws(seed)
    area = 1 - float(generator.beta(alpha, alpha))
    return area, torch.from_numpy(generator.permutation(size)), int(generator.integers(3))


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_manifold_mixup_mixes_the_layer_drawn(layer):
    torch.manual_seed(0)
    backbone = resnet8(6, 3, width=8)
    images, targets = torch.randn(6, 3, 16, 16), torch.eye(6)
    plain = stage_maps(backbone, images)
    seed = next(s for s in range(99) if drawn(s, 6)[2] == layer)
    area, partner, _ = drawn(seed, 6)
    method = ManifoldMixup()
    model = method.wrap_model(backbone)
    seen = {name: next_input(backbone, name) for name in ("stem", "stage1", "stage2")}
    loss, logits, _, logs = method.loss(model, images, targets, StepContext(draws(seed)))
    if layer:
        before = seen["stem" if layer == 1 else "stage1"][0]
        name = f"stage{layer}"
        assert torch.equal(before, plain["stem" if layer == 1 else "stage1"]), (
            "untouched up to the layer"
        )
        torch.testing.assert_close(
            seen[name][0], (1 - area) * plain[name] + area * plain[name][partner]
        )
    torch.testing.assert_close(
        targets_used(loss, logits), labels_of(images, partner, 1 - area), atol=1e-5, rtol=0
    )
    assert logs == {"area": area}


def test_manifold_mixup_of_layer_0_is_mixup_and_all_layers_occur():
    torch.manual_seed(0)
    backbone = resnet8(4, 3, width=8)
    method, mixup = ManifoldMixup(alpha=0.7), Mixup(alpha=0.7)
    model, (images, targets) = method.wrap_model(backbone), batch()
    layers = [drawn(seed, 6, 0.7)[2] for seed in range(300)]
    assert min(layers.count(layer) for layer in range(3)) > 75
    for seed in (s for s in range(20) if layers[s] == 0):
        ours, theirs = (
            m.loss(model, images, targets, StepContext(draws(seed)))[0] for m in (method, mixup)
        )
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_moex_takes_the_partners_moments_and_keeps_the_normalised_content(dtype):
    torch.manual_seed(0)
    features = (torch.randn(5, 8, 4, 6, dtype=torch.double) * 3 + 2).to(dtype)
    partner = torch.tensor([3, 0, 2, 4, 1])
    out = exchange_moments(features, partner)
    assert out.dtype == dtype
    wide, changed = features.double(), out.double()
    tolerance = (
        {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float64 else {"rtol": 0.05, "atol": 0.05}
    )
    torch.testing.assert_close(changed.mean(1), wide[partner].mean(1), **tolerance)
    torch.testing.assert_close(changed.std(1), wide[partner].std(1), **tolerance)

    def normalised(x):
        return (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True)

    torch.testing.assert_close(normalised(changed), normalised(wide), **tolerance)
    torch.testing.assert_close(out[2], features[2], **tolerance)


def test_moex_gradients_reach_content_and_moments():
    features = torch.randn(2, 4, 3, 3, dtype=torch.double, requires_grad=True)
    partner = torch.tensor([1, 0])
    assert torch.autograd.gradcheck(lambda x: exchange_moments(x, partner), features)
    exchange_moments(features, partner)[0].square().sum().backward()
    assert features.grad[0].abs().sum() > 0
    assert features.grad[1].abs().sum() > 0


def test_moex_acts_after_the_stem_and_weights_labels_by_lambda():
    torch.manual_seed(0)
    backbone = resnet8(6, 3, width=8)
    images, targets = torch.randn(6, 3, 16, 16), torch.eye(6)
    stem = stage_maps(backbone, images)["stem"]
    method = MoEx(label_weight=0.7)
    model = method.wrap_model(backbone)
    seen = next_input(backbone, "stem")
    loss, logits, _, logs = method.loss(model, images, targets, StepContext(draws(5)))
    generator = draws(5)
    generator.random()
    partner = torch.from_numpy(generator.permutation(6))
    torch.testing.assert_close(seen[0], exchange_moments(stem, partner))
    torch.testing.assert_close(
        targets_used(loss, logits), labels_of(images, partner, 0.7), atol=1e-5, rtol=0
    )
    assert logs == {"exchanged": 1.0}


@pytest.mark.parametrize("probability", [0.0, 0.25, 1.0])
def test_moex_exchanges_with_its_probability(probability):
    method = MoEx(probability=probability)
    model = method.wrap_model(resnet8(4, 3, width=8))
    generator, count = draws(0), 400 if 0 < probability < 1 else 10
    images, targets = torch.randn(4, 3, 4, 4), torch.eye(4)
    exchanged = []
    for _ in range(count):
        loss, logits, _, logs = method.loss(model, images, targets, StepContext(generator))
        exchanged.append(logs["exchanged"])
        if not exchanged[-1]:
            assert torch.equal(loss, soft_cross_entropy(logits, targets))
    assert np.mean(exchanged) == pytest.approx(probability, abs=0.07)


def test_cutmix_moex_mixes_three_labels_as_the_official_loss():
    """c*l of the own, (1-c)*l + c*(1-l) of the partner's, (1-c)*(1-l) of its partner's label;
    images as CutMix's.
    """
    torch.manual_seed(0)
    backbone = resnet8(6, 3, width=8)
    images, targets = (
        torch.arange(6.0)[:, None, None, None].expand(6, 3, 16, 16).contiguous(),
        torch.eye(6),
    )
    method = CutMixMoEx(label_weight=0.8, moex_probability=1.0)
    model = method.wrap_model(backbone)
    shown = []
    backbone.register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0]))
    for seed in range(5):
        partner = torch.from_numpy(draws(seed).permutation(6))
        loss, logits, _, logs = method.loss(model, images, targets, StepContext(draws(seed)))
        kept = 1 - logs["area"]
        own, second, third = torch.eye(6), torch.eye(6)[partner], torch.eye(6)[partner][partner]
        expected = (
            kept * 0.8 * own + ((1 - kept) * 0.8 + kept * 0.2) * second + (1 - kept) * 0.2 * third
        )
        torch.testing.assert_close(targets_used(loss, logits), expected, atol=1e-5, rtol=0)
        for i in (i for i in range(6) if partner[i] != i):
            assert (shown[-1][i] == float(partner[i])).float().mean().item() == pytest.approx(
                1 - kept
            )


@pytest.mark.parametrize("cutmix", [0.0, 1.0])
@pytest.mark.parametrize("moex", [0.0, 1.0])
def test_cutmix_moex_can_do_either_alone(cutmix, moex):
    torch.manual_seed(0)
    method = CutMixMoEx(cutmix_probability=cutmix, moex_probability=moex)
    model = method.wrap_model(resnet8(4, 3, width=8))
    images, targets = batch()
    generator = draws(0)
    areas = []
    for _ in range(10):
        _, logits, _, logs = method.loss(model, images, targets, StepContext(generator))
        areas.append(logs["area"])
        assert logs["exchanged"] == moex
    assert (max(areas) > 0) == (cutmix > 0)
    if not cutmix and not moex:
        assert torch.equal(logits, model(images))


@pytest.mark.parametrize("stage", ["stage1", "stage2", "stage3"])
def test_feature_cutmix_labels_are_the_share_of_pixels_mixed(stage):
    torch.manual_seed(0)
    backbone = resnet8(6, 3, width=8)
    images, targets = torch.randn(6, 3, 32, 48), torch.eye(6)
    plain = stage_maps(backbone, images)
    plain[stage] = plain[stage].double()
    method = FeatureCutMix(stage=stage)
    model = method.wrap_model(backbone)
    seen = next_input(backbone, stage)
    areas = []
    for seed in range(8):
        partner = torch.from_numpy(draws(seed).permutation(6))
        loss, logits, _, logs = method.loss(model, images, targets, StepContext(draws(seed)))
        mixed, own, other = seen[-1].double(), plain[stage], plain[stage][partner]
        assert torch.equal(torch.where(mixed == own, own, other), mixed), (
            "every element is the own or the partner's"
        )
        area = logs["area"]
        for i in (i for i in range(6) if partner[i] != i):
            share = (
                (mixed[i] != own[i]).any(0).float().mean().item()
            )  # a position, over its channels
            assert share == pytest.approx(area, abs=0.02)
        expected = labels_of(images, partner, 1 - area)
        torch.testing.assert_close(targets_used(loss, logits), expected, atol=1e-5, rtol=0)
        areas.append(area)
    assert max(areas) > 0.2


def test_feature_cutmix_draws_a_stage_for_every_batch():
    method = FeatureCutMix()
    backbone = resnet8(6, 3, width=8)
    model = method.wrap_model(backbone)
    images, targets = torch.randn(6, 3, 32, 32), torch.eye(6)
    plain, chosen = stage_maps(backbone, images), []
    seen = {stage: next_input(backbone, stage) for stage in plain if stage != "stem"}
    for seed in range(24):
        *_, logs = method.loss(model, images, targets, StepContext(draws(seed)))
        changed = [name for name in seen if not torch.equal(seen[name][-1], plain[name])]
        assert bool(changed) == (logs["area"] > 0)
        chosen += changed[:1]  # what follows it has changed too
    assert set(chosen) == {"stage1", "stage2", "stage3"}


def test_feature_cutmix_gradients_flow_to_both():
    torch.manual_seed(0)
    method = FeatureCutMix()
    model = method.wrap_model(resnet8(4, 3, width=8).train())
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.eval()  # else every sample touches every other one through the batch's statistics
    images, targets = batch(4)
    images.requires_grad_()
    for seed in range(99):
        loss, logits, _, logs = method.loss(model, images, targets, StepContext(draws(seed)))
        partner = draws(seed).permutation(4)
        if 0.2 < logs["area"] < 0.8 and all(partner != range(4)):
            break
    (gradient,) = torch.autograd.grad(logits[0].sum(), images, retain_graph=True)
    touched = gradient.flatten(1).any(1)
    assert touched.tolist() == [i in (0, partner[0]) for i in range(4)]
    loss.backward()
    assert model.stem[0].weight.grad.any()


def test_feature_cutmix_of_probability_0_is_the_baseline():
    method = FeatureCutMix(probability=0.0)
    model = method.wrap_model(resnet8(4, 3, width=8))
    images, targets = batch()
    loss, logits, _, logs = method.loss(model, images, targets, StepContext(draws(0)))
    assert torch.equal(loss, soft_cross_entropy(logits, targets))
    assert torch.equal(logits, model(images))
    assert logs == {"area": 0.0}
