"""The defining properties of each method, beyond the contract that all of them keep."""

import numpy as np
import pytest
import torch
from torch import nn

from rm import registry
from rm.methods._history import PreviousBatch
from rm.methods.baseline import Baseline
from rm.methods.cutmix import CutMix
from rm.methods.mixup import Mixup
from rm.methods.recursive_mix import RecursiveMix
from rm.ops import soft_cross_entropy
from rm.schedules import StepContext
from tests.support.rm.networks import targets_used


class Recorder(nn.Module):
    """A linear classifier that keeps the images it was shown."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.head = nn.Linear(8 * 8, classes)
        self.shown: list[torch.Tensor] = []

    def forward(self, images):
        self.shown.append(images)
        return self.head(images.flatten(1))


def batch(size=6, value=None):
    images = (
        torch.rand(size, 1, 8, 8) if value is None else torch.full((size, 1, 8, 8), float(value))
    )
    return images, torch.eye(4)[torch.arange(size) % 4]


def test_mixup_mixes_pixels_and_labels_with_one_weight():
    model, method = Recorder(), Mixup(alpha=1.0)
    images, targets = batch()
    loss, logits, _, logs = method.loss(
        model, images, targets, StepContext(np.random.default_rng(4))
    )
    used, area = targets_used(loss, logits), logs["area"]
    assert torch.allclose(used.sum(1), torch.ones(6), atol=1e-5)
    generator = np.random.default_rng(4)
    assert area == 1 - generator.beta(1.0, 1.0)
    partner = generator.permutation(6)
    assert torch.allclose(used, (1 - area) * targets + area * targets[partner], atol=1e-5)
    assert torch.allclose(model.shown[0], (1 - area) * images + area * images[partner], atol=1e-6)


def test_cutmix_labels_follow_the_pixels_that_were_replaced():
    model, method = Recorder(classes=6), CutMix(alpha=1.0)
    images = torch.arange(6.0).reshape(6, 1, 1, 1).expand(6, 1, 8, 8).contiguous()
    mixed = 0
    for seed in range(20):
        loss, logits, _, logs = method.loss(
            model, images, torch.eye(6), StepContext(np.random.default_rng(seed))
        )
        area = logs["area"]
        pixels = torch.stack(
            [(model.shown[-1] == i).float().mean((1, 2, 3)) for i in range(6)], dim=1
        )
        assert torch.allclose(targets_used(loss, logits), pixels, atol=1e-4), (
            "a label's weight is its share of pixels"
        )
        assert torch.allclose(
            pixels.diagonal()[pixels.diagonal() < 1], torch.tensor(1 - area), atol=1e-6
        )
        mixed += area > 0
    assert mixed > 10


def test_cutmix_probability_zero_is_the_baseline():
    model, (images, targets) = Recorder(), batch()
    ours, *_ = CutMix(probability=0.0).loss(
        model, images, targets, StepContext(np.random.default_rng(0))
    )
    plain, *_ = Baseline().loss(model, images, targets, StepContext(np.random.default_rng(0)))
    assert ours == plain


def network(method, classes=4):
    torch.manual_seed(0)
    return method.wrap_model(registry.load("backbone", "resnet8")(classes, 1, width=8))


def test_recursive_mix_pastes_the_previous_mixed_batch_and_its_labels():
    method, generator = RecursiveMix(alpha=1.0, omega=0.0), np.random.default_rng(0)
    model = Recorder()
    history = []
    for value in range(5):
        images, targets = batch(value=value)
        logs = method.loss(model, images, targets, StepContext(generator)).logs
        shown = model.shown[-1]
        inside = shown != value
        if inside.any():  # every pixel is this batch's or one of the previous mixed batch
            assert set(shown[0].unique().tolist()) <= {
                float(value),
                *history[-1].unique().tolist(),
            }
            assert inside[0].float().mean().item() == pytest.approx(logs["area"], abs=1e-6)
        history.append(shown)
        assert torch.equal(method.previous.images, shown)
    assert len(torch.unique(history[-1])) > 2, (
        "older images are still there: the mixing is recursive"
    )


def test_recursive_mix_consistency_is_soft_cross_entropy_with_the_previous_prediction():
    method, generator = RecursiveMix(alpha=0.9, omega=0.7), np.random.default_rng(3)
    model = network(method)
    first = batch()
    loss, logits, _, logs = method.loss(model, *first, StepContext(generator))
    assert loss == soft_cross_entropy(logits, first[1]), (
        "nothing to be consistent with in the first step"
    )
    teacher_probs = method.previous.logits.softmax(1)
    shown = []
    model.register_forward_pre_hook(lambda module, inputs: shown.append(inputs))
    loss, logits, _, logs = method.loss(model, *batch(), StepContext(generator))
    mixed, box = shown[0]
    area = logs["area"]
    assert area == (box[2] - box[0]) * (box[3] - box[1]) / 64
    _, region = model(mixed, box)
    targets = (1 - area) * batch()[1] + area * first[1]
    expected = soft_cross_entropy(logits, targets) + 0.7 * area * soft_cross_entropy(
        region, teacher_probs
    )
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_recursive_mix_starts_each_epoch_plainly_and_takes_smaller_batches():
    method, generator = RecursiveMix(), np.random.default_rng(0)
    model = network(method)
    logs = method.loss(model, *batch(6), StepContext(generator)).logs
    logs = method.loss(model, *batch(4), StepContext(generator)).logs
    assert len(method.previous) == 4
    method.start_epoch()
    assert len(method.previous) == 0
    logs = method.loss(model, *batch(6), StepContext(generator)).logs
    assert logs["area"] == 0


def test_omega_zero_has_no_second_head():
    assert (
        network(RecursiveMix(omega=0.0)).state_dict().keys()
        == registry.load("backbone", "resnet8")(4, 1).state_dict().keys()
    )


def test_the_previous_batch_survives_a_round_trip():
    previous = PreviousBatch()
    previous.store(torch.ones(2, 1, 2, 2), torch.eye(2))
    previous.store_logits(torch.zeros(2, 2, requires_grad=True) * 2)
    assert not previous.logits.requires_grad
    other = PreviousBatch()
    other.load_state_dict(previous.state_dict())
    for name in ("images", "targets", "logits"):
        assert torch.equal(getattr(previous, name), getattr(other, name))
    other.load_state_dict(PreviousBatch().state_dict())
    assert len(other) == 0


def shown_by(method, batches, seed=0):
    """The images each step shows to the network."""
    model, generator = Recorder(), np.random.default_rng(seed)
    for images, targets in batches:
        method.loss(model, images, targets, StepContext(generator))
    return model.shown


def test_without_history_the_partner_is_the_batch_itself():
    images = torch.arange(6.0).reshape(6, 1, 1, 1).expand(6, 1, 8, 8).contiguous()
    method = RecursiveMix(alpha=1.0, omega=0.0, history=False)
    model, generator = Recorder(classes=6), np.random.default_rng(1)
    mixed = 0
    for _ in range(10):
        loss, logits, _, logs = method.loss(model, images, torch.eye(6), StepContext(generator))
        pixels = torch.stack(
            [(model.shown[-1] == i).float().mean((1, 2, 3)) for i in range(6)], dim=1
        )
        assert torch.allclose(targets_used(loss, logits), pixels, atol=1e-4)
        mixed += logs["area"] > 0
    assert mixed >= 8
    assert method.previous.images is None


def test_without_resize_the_same_place_is_cut_from_the_previous_batch():
    row = torch.arange(64.0).reshape(1, 1, 8, 8)  # every pixel knows where it comes from
    batches = [(row.expand(6, 1, 8, 8) + 100 * step, batch()[1]) for step in range(2)]
    _, second = shown_by(RecursiveMix(alpha=1.0, omega=0.0, resize=False), batches, seed=2)
    pasted = second < 100
    assert pasted.any()
    assert torch.equal(second[pasted] % 100, row.expand(6, 1, 8, 8)[pasted])
    _, resized = shown_by(RecursiveMix(alpha=1.0, omega=0.0), batches, seed=2)
    assert resized[resized < 100].min() == 0, "resized: the corner of the whole previous image"


def test_probability_and_history_across_epochs():
    method = RecursiveMix(alpha=1.0, probability=0.0)
    batches = [batch(value=v) for v in range(4)]
    shown = shown_by(RecursiveMix(alpha=1.0, omega=0.0, probability=0.0), batches)
    assert all(torch.equal(a, b) for a, (b, _) in zip(shown, batches, strict=True))
    method = RecursiveMix(reset_history="never")
    model, generator = network(method), np.random.default_rng(0)
    logs = method.loss(model, *batch(4), StepContext(generator)).logs
    method.start_epoch()
    assert len(method.previous) == 4
    logs = method.loss(
        model, *batch(6), StepContext(generator)
    ).logs  # an epoch's short last batch cannot fill a whole one: a plain step
    assert logs["area"] == 0
