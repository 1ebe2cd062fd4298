"""AutoMix and AMix as methods: who learns from what, what is shown, who follows whom, what is
deployed.
"""

import numpy as np
import pytest
import torch

from rm import export, registry
from rm.methods import draw_partner
from rm.methods.amix import AMix
from rm.methods.automix import AutoMix
from rm.methods.mixup import Mixup
from rm.ops import pair_cross_entropy, soft_cross_entropy
from rm.rundir import checkpoint
from rm.schedules import Progress, StepContext
from rm.trainer import Trainer
from rm.trial import TrialError, parse_trial
from tests.support.rm.networks import Recorder, batch
from tests.support.rm.training import assert_equal_runs, train

CPU = torch.device("cpu")
BOTH = pytest.mark.parametrize("kind", [AMix, AutoMix])


def network(method, classes=4, channels=3):
    torch.manual_seed(0)
    return method.wrap_model(registry.load("backbone", "resnet8")(classes, channels, width=8))


def context(seed=0, groups=1):
    """The fourth step of the first of four epochs."""
    return StepContext(np.random.default_rng(seed), Progress(1, 4, 3, 10), groups)


def gradients(parameters):
    return [p.grad for p in parameters]


@BOTH
def test_each_part_learns_from_its_own_losses(kind, monkeypatch):
    method = kind()
    model, (images, targets) = network(method), batch()
    loss, logits, *_ = method(model, images, targets, context())
    loss.backward()
    momentum = [*model.momentum.parameters(), *model.momentum_other.parameters()]
    assert all(g is None for g in gradients(momentum))
    assert all(g is not None for g in gradients(model.online_parameters()))
    assert all(g is not None and g.any() for g in gradients(model.block.parameters()) if g.ndim)
    assert logits.shape == (6, 4)

    def loss_without(*heads):
        """The loss with the logits of these heads cut off, and without the masks' own loss."""
        real = type(model).logits

        def cut(self, images, head):
            found = real(self, images, head)
            return found.detach() if head in heads else found

        with monkeypatch.context() as patch:
            patch.setattr(type(model), "logits", cut)
            model.zero_grad()
            kind(mask_weight=0.0)(model, images, targets, context()).loss.backward()

    loss_without("mix_k")
    assert all(g is None or not g.any() for g in gradients(model.block.parameters()))
    loss_without("mix_q", "one_q")
    assert all(g is None or not g.any() for g in gradients(model.online_parameters()))
    assert any(g.any() for g in gradients(model.block.parameters()))


@BOTH
def test_equal_images_stay_whatever_the_mask(kind):
    method = kind()
    model = network(method)
    images = torch.rand(1, 3, 16, 16).expand(5, -1, -1, -1).contiguous()
    shown = method(model, images, torch.eye(4)[[0, 1, 2, 3, 0]], context()).mixed
    assert torch.equal(shown.images, images)
    assert torch.allclose(shown.targets.sum(1), torch.ones(5))


@BOTH
def test_a_lambda_near_0_or_1_is_mixup(kind):
    """Here made so that every lambda is: a margin of nearly 1/2."""
    method = kind(margin=0.4999999)
    model, (images, targets) = network(method), batch()
    generator = np.random.default_rng(5)
    _, lam = generator.beta(2, 2, size=2)
    partner = generator.permutation(6)
    shown = method(model, images, targets, context(5)).mixed
    expected = lam * images + (1 - lam) * images[partner]
    assert torch.allclose(shown.images, expected, atol=1e-6)
    assert torch.allclose(shown.targets, lam * targets + (1 - lam) * targets[partner], atol=1e-6)
    other = kind()(model, images, targets, context(5)).mixed
    assert not torch.equal(other.images, shown.images)
    assert torch.equal(other.targets, shown.targets), "labels keep lambda, whatever the mask"


@BOTH
def test_the_momentum_network_moves_by_its_share_and_keeps_its_own_statistics(tiny, kind):
    trial = parse_trial(tiny | {"method": {"name": kind.__name__.lower()}})
    trainer = Trainer(trial, CPU)
    model = trainer.task.model
    slow, fast = model.followed()
    assert all(torch.equal(a, b) for a, b in zip(slow, fast, strict=True)), "it starts as a copy"
    before, block = [p.clone() for p in slow], [p.clone() for p in model.block.parameters()]
    trainer.train_step()
    for old, new, online in zip(before, slow, fast, strict=True):
        assert torch.allclose(new, old + 0.001 * (online - old), rtol=0, atol=1e-7)
        assert not torch.equal(online, old) or old.ndim == 0
    moved = [not torch.equal(a, b) for a, b in zip(block, model.block.parameters(), strict=True)]
    assert sum(moved) >= len(moved) - 1, "the keys' bias alone may stay"
    norm_k, norm_q = (next(iter(n.buffers())) for n in (model.momentum, model.online))
    assert norm_k.any()
    assert not torch.allclose(norm_k, 0.001 * norm_q)
    counts = {n: int(v) for n, v in model.named_buffers() if n.endswith("num_batches_tracked")}
    assert set(counts.values()) == {2}, "two passes a step through q, k and the block"


def test_the_block_has_its_own_learning_rate(tiny):
    tiny["method"] = {"name": "amix", "block_lr_factor": 0.5, "block_floor": 0.01}
    tiny["schedule"] = {"name": "cosine"}
    trainer = Trainer(parse_trial(tiny), CPU)
    rates = {}
    for epoch in range(1, 4):
        for _ in range(trainer.steps_per_epoch):
            trainer.train_step()
        rates[epoch] = [group["lr"] for group in trainer.optimizer.param_groups]
        trainer.end_epoch()
    assert rates[1] == pytest.approx([0.05, 0.025])
    assert rates[3] == pytest.approx([0.05 * 0.25, 0.025 * (0.01 + 0.99 * 0.25)])
    trained = sum(p.numel() for p in trainer.trained)
    held = sum(p.numel() for p in trainer.task.parameters())
    assert trained < held / 1.5


@pytest.mark.parametrize("head", ["mix_k", "one_k", "mix_q", "one_q"])
def test_the_head_that_is_chosen_is_judged_first_and_deployed(tiny, tmp_path, head):
    tiny["method"] = {"name": "amix", "head": head}
    tiny["train"]["epochs"] = 1
    result = train(tiny, tmp_path)
    names = {name for name in result["metrics"] if name.startswith("last_top1_error")}
    others = {"mix_k", "one_k", "mix_q", "one_q"} - {head}
    assert names == {"last_top1_error"} | {f"last_top1_error.{other}" for other in others}
    trainer = Trainer(parse_trial(tiny), CPU)
    plain = registry.load("backbone", "resnet8")(10, 1, width=8)
    plain.load_state_dict(export.deployed(tmp_path), strict=True)
    trainer.load_state_dict(checkpoint.load(tmp_path, CPU))
    images, _ = trainer.task.test_images.plain(slice(0, 20))
    with torch.no_grad():
        logits = trainer.task.model.eval()(images)
        assert next(iter(logits)) == head
        assert torch.allclose(logits[head], plain.eval()(images), atol=1e-6)


def test_it_can_stop_before_every_step_in_turn(tiny, tmp_path):
    """Momentum network, block, optimizer groups and the position of the averaging included."""
    tiny["method"] = {"name": "amix", "adjust": 0.5, "mask_decay": "cosine", "ema_start": 0.9}
    tiny["method"] |= {"block_lr_factor": 2.0, "block_floor": 0.1}
    for name, stops in (("whole", ()), ("stopped", (1,) * 9)):
        train(tiny, tmp_path / name, stops)
    assert_equal_runs(tmp_path / "whole", tmp_path / "stopped")


def test_numbers_of_parameters_of_the_whole_network():
    with torch.device("meta"):
        model = AMix().wrap_model(registry.load("backbone", "resnet18")(100, 3))
    assert sum(p.numel() for p in model.parameters()) == 22_707_344
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 11_435_912
    assert sum(p.numel() for p in model.deployed.parameters()) == 11_220_132


def test_a_stage_that_is_not_there_is_named(tiny):
    tiny["method"] = {"name": "amix", "stage": 4}
    with pytest.raises(TrialError, match="reads stage4, and ResNet has stem, stage1"):
        Trainer(parse_trial(tiny), CPU)


def test_pairs_of_one_class_say_nothing_to_pbce():
    logits, lam = torch.randn(4, 5, requires_grad=True), 0.3
    own = torch.tensor([0, 1, 2, 3])
    assert pair_cross_entropy(logits, own, own, lam) == 0
    partner = torch.tensor([0, 2, 2, 4])
    z = logits.detach()
    pairs = [(z[1, 1] - z[1, 2]), (z[3, 3] - z[3, 4])]
    expected = -sum(lam * d.sigmoid().log() + (1 - lam) * (-d).sigmoid().log() for d in pairs) / 2
    assert torch.allclose(pair_cross_entropy(logits, own, partner, lam), expected)
    flipped = pair_cross_entropy(logits, partner, own, 1 - lam)
    assert torch.allclose(flipped, expected), "own and partner exchanged change nothing"
    assert torch.isfinite(AMix(objective="pbce")(network(AMix()), *batch(), context()).loss)


def test_equal_labels_are_plain_cross_entropy_for_every_lambda():
    method = AMix(mask_weight=0.0)
    model, (images, _) = network(method), batch()
    targets = torch.eye(4)[torch.zeros(6, dtype=torch.long)]
    output = method(model, images, targets, context())
    assert torch.allclose(output.mixed.targets, targets)
    with torch.no_grad():
        mixed = model.logits(output.mixed.images, "mix_q")
    assert torch.allclose(output.logs["mix_loss"], soft_cross_entropy(mixed, targets))


@pytest.mark.parametrize("side", [(7, 9), (16, 12)])
@pytest.mark.parametrize("size", [1, 2, 7])
@BOTH
def test_odd_pictures_small_batches_and_constant_pictures(kind, size, side):
    method = kind(fixed_points=False, adjust=1.0)
    model = network(method)
    images = torch.zeros(size, 3, *side)
    output = method(model, images, torch.eye(4)[torch.arange(size) % 4], context())
    output.loss.backward()
    assert torch.isfinite(output.loss)
    assert torch.equal(output.mixed.images, images)


def test_partners_stay_within_the_parts_of_a_batch():
    images = torch.zeros(10, 1)
    whole = draw_partner(images, np.random.default_rng(3))
    assert torch.equal(whole, torch.from_numpy(np.random.default_rng(3).permutation(10)))
    parts = draw_partner(images, np.random.default_rng(3), groups=2)
    half = torch.from_numpy(np.random.default_rng(3).permutation(5))
    assert torch.equal(parts, torch.cat([half, half + 5]))
    uneven = draw_partner(images[:7], np.random.default_rng(3), groups=3)
    assert uneven.sort().values.tolist() == list(range(7))
    method = AMix(fixed_points=False)
    for seed in range(20):
        drawn = method.draw(images, context(seed, groups=2))
        for partner in (drawn.partner, drawn.block_partner):
            assert partner.sort().values.tolist() == list(range(10))
        assert (drawn.block_partner != torch.arange(10)).all()


def test_a_block_learns_masks_that_are_far_from_constant(tiny):
    """The released sign of the variance loss rewards them; a few dozen steps on digits."""
    tiny["method"] = {"name": "amix", "mask_weight": 1.0, "block_lr_factor": 5.0}
    tiny["schedule"] = {"name": "constant"}
    tiny["train"]["epochs"] = 8
    trainer = Trainer(parse_trial(tiny), CPU)
    variances = []
    for _ in range(trainer.options.epochs):
        for _ in range(trainer.steps_per_epoch):
            trainer.train_step()
        variances.append(float(trainer.sums["mask_variance"]) / trainer.sums["size"])
        trainer.end_epoch()
    assert variances[0] < 1e-4
    assert variances[-1] > 10 * variances[0]


def test_mixup_is_what_the_recorder_sees():
    """Draws of the others are not touched by the parts of a batch: one part is the old way."""
    model, (images, targets) = Recorder(4), batch()
    Mixup()(model, images, targets, context(7))
    generator = np.random.default_rng(7)
    area = 1 - generator.beta(1.0, 1.0)
    partner = generator.permutation(6)
    assert torch.allclose(model.shown[0], torch.lerp(images, images[partner], area))
