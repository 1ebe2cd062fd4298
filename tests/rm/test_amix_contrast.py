"""AMix-I: what teaches the mix block and what the encoders, and whose keys are whose."""

import pytest
import torch
import torch.nn.functional as F

from rm.methods._mask_contrast import Mixture, pair_nce
from rm.trainer import Trainer
from rm.trial import parse_trial
from tests.support.trials import contrastive

CPU = torch.device("cpu")


@pytest.fixture
def trainer(tiny):
    return lambda **options: Trainer(
        parse_trial({**contrastive(tiny), "method": {"name": "amix_i", **options}}), CPU
    )


def gradients(trainer, change=lambda method: None):
    """Of one step's loss: those of the online encoder, those of the block, those of k."""
    change(trainer.task.method)
    views = next(trainer.task.batches(trainer.epoch_plan, 0))
    loss = trainer.task(views, trainer._step_context()).loss
    network, block = trainer.task.network, trainer.task.method.block
    fast = *network.online.parameters(), *network.projector.parameters()
    slow = *network.momentum.parameters(), *network.momentum_projector.parameters()
    loss.backward()
    return [[p.grad for p in part] for part in (fast, block.parameters(), slow)]


def without_block_loss(method):
    method.block_loss = lambda network, taught, views, step: torch.zeros(())


def test_block_and_encoder_learn_from_their_own_losses_alone(trainer):
    fast, block, slow = gradients(trainer())
    assert all(grad is None for grad in slow)
    assert any(grad.abs().sum() > 0 for grad in block)
    alone, untaught, _ = gradients(trainer(mask_weight=0.0), without_block_loss)
    assert all(grad is None or not grad.any() for grad in untaught), "nothing else teaches it"
    pairs = [(a, b) for a, b in zip(fast, alone, strict=True) if a is not None]
    assert all(torch.equal(a, b) for a, b in pairs), "the block's losses do not reach q"


@pytest.mark.parametrize("view", ["key", "query"])
def test_images_and_keys_are_of_opposite_views(trainer, view):
    """No key is of a view that was mixed."""
    trained = trainer(partner_view=view)
    method, network = trained.task.method, trained.task.network
    seen: list[Mixture] = []
    real = method.mixture
    method.mixture = lambda *args, **options: seen.append(real(*args, **options)) or seen[-1]
    views = next(trained.task.batches(trained.epoch_plan, 0))
    trained.task(views, trained._step_context())
    key_of_query, key_of_key = (
        F.normalize(network.project(each), dim=1) for each in (views.query, views.key)
    )
    others, keys = (views.key, key_of_query) if view == "key" else (views.query, key_of_key)
    for mixed in seen:
        blend = torch.lerp(views.query, others[mixed.partner], mixed.mask[:, None])
        assert torch.equal(mixed.images, blend)
        assert 0 < mixed.mask.min() < mixed.mask.max() < 1
        assert torch.allclose(mixed.own, key_of_key, atol=1e-6)
        assert torch.allclose(mixed.other, keys[mixed.partner], atol=1e-6)
    assert len(seen) == 2
    assert not seen[1].images.requires_grad, "the backbone's mask is given"


def test_which_source_is_which(trainer):
    network = trainer().task.network
    own, other = torch.eye(6)[:3], torch.eye(6)[3:]
    mixture = Mixture(torch.empty(0), torch.empty(0), 0.7, torch.arange(3), own, other)
    level = torch.ones(3, 6)
    assert pair_nce(network, level, mixture).item() == pytest.approx(0.6931, abs=1e-4)
    shifted = pair_nce(network, own + 5 * level, mixture)
    assert torch.allclose(shifted, pair_nce(network, own, mixture), atol=1e-4)
    swapped = mixture._replace(lam=0.3, own=other, other=own)
    assert torch.allclose(pair_nce(network, own, swapped), pair_nce(network, own, mixture))
