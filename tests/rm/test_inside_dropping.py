"""DropBlock and stochastic depth: what is dropped, how often, and that the mean is kept."""

import math

import pytest
import torch
from torch import nn

from rm.backbones.pyramidnet import PyramidNet
from rm.backbones.resnet import resnet8, resnet18
from rm.methods.dropblock import DropBlock, block_mask
from rm.methods.stochastic_depth import StochasticDepth
from rm.schedules import Progress, StepContext
from tests.support.rm.networks import batch, draws, next_input, stage_maps


@pytest.mark.parametrize(
    ("size", "block", "keep_prob"),
    [((16, 16), 3, 0.9), ((14, 14), 7, 0.9), ((12, 20), 4, 0.8), ((8, 8), 1, 0.7)],
)
def test_dropblock_keeps_about_keep_prob(size, block, keep_prob):
    """Within what overlapping blocks save: of n expected blocks covering an element, 1 - exp(-n)
    instead of n are dropped.
    """
    mask = block_mask(
        torch.Size((64, 32, *size)), block, keep_prob, torch.Generator().manual_seed(0)
    )
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    dropped = 1 - mask.mean().item()
    # gamma spreads (1 - p) HW block elements; each overlap is counted twice in that, and more so
    # far from the border.
    assert dropped <= 1.01 * (1 - keep_prob)
    assert dropped >= 0.8 * (1 - math.exp(-(1 - keep_prob)))
    if block == 1:
        assert dropped == pytest.approx(1 - keep_prob, abs=0.005)


@pytest.mark.parametrize(("size", "block"), [((9, 9), 3), ((10, 7), 4)])
def test_dropblock_drops_whole_blocks_inside_the_map(size, block):
    """A lone block is block x block, anywhere inside; each sample and channel has its own."""
    shape = torch.Size((40, 40, *size))
    mask = block_mask(
        shape, block, 1 - 0.2 / math.prod(size) * block**2, torch.Generator().manual_seed(1)
    )
    assert mask.shape == shape
    holes = [(1 - one).nonzero() for one in mask.flatten(0, 1)]
    single = [hole for hole in holes if len(hole) == block**2]
    assert len(single) > 100
    corners = set()
    for hole in single:
        low, high = hole.min(0).values, hole.max(0).values
        assert (high - low + 1).tolist() == [block, block]
        corners.add(tuple(low.tolist()))
    assert len(corners) == (size[0] - block + 1) * (size[1] - block + 1), (
        "every place inside the map occurs"
    )
    assert all(len(hole) == 0 or len(hole) >= block**2 for hole in holes), (
        "no block is cut off by the border"
    )


def test_dropblock_on_a_map_smaller_than_the_block_drops_channels():
    mask = block_mask(torch.Size((100, 100, 4, 4)), 7, 0.9, torch.Generator().manual_seed(0))
    assert torch.equal(mask.amax((2, 3)), mask.amin((2, 3)))
    assert mask.mean().item() == pytest.approx(0.9, abs=0.01)


def test_dropblock_divides_by_the_share_kept_in_the_last_two_stages():
    torch.manual_seed(0)
    backbone = resnet8(4, 3, width=16)
    images, targets = batch(8, 32)
    plain = stage_maps(backbone, images)
    method = DropBlock(block_size=3, keep_prob=0.8)
    model = method.wrap_model(backbone)
    seen = {name: next_input(backbone, name) for name in plain}
    logs = method.loss(model, images, targets, StepContext(draws(0))).logs
    assert set(logs) == {"kept_stage2", "kept_stage3"}
    assert torch.equal(seen["stage1"][0], plain["stage1"])
    alive = plain["stage2"] != 0
    ratio = seen["stage2"][0][alive] / plain["stage2"][alive]
    kept = float(logs["kept_stage2"])
    torch.testing.assert_close(ratio[ratio != 0], torch.full_like(ratio[ratio != 0], 1 / kept))
    assert (ratio != 0).float().mean().item() == pytest.approx(kept, abs=0.02)
    assert kept == pytest.approx(0.95, abs=0.015), "1 - (1-p)/4 in the stage before the last"
    assert float(logs["kept_stage3"]) == pytest.approx(0.8, abs=0.04)


@pytest.mark.parametrize(("schedule", "kept"), [("constant", [0.6, 0.6]), ("linear", [1, 0.8])])
def test_dropblock_can_drop_more_and_more(schedule, kept):
    """By the share of the training that lies behind: nothing at its start, half at half of it."""
    method = DropBlock(block_size=1, keep_prob=0.6, schedule=schedule)
    model = method.wrap_model(resnet8(4, 3, width=16))
    for epoch, expected in zip((1, 2), kept, strict=True):
        step = StepContext(draws(0), Progress(epoch=epoch, epochs=2))
        logs = method.loss(model, *batch(8, 32), step).logs
        assert float(logs["kept_stage3"]) == pytest.approx(expected, abs=0.02)


def test_dropblock_that_drops_all_is_finite():
    method = DropBlock(block_size=50, keep_prob=1e-9)
    model = method.wrap_model(resnet8(4, 3, width=8))
    loss, *_ = method.loss(model, *batch(), StepContext(draws(0)))
    loss.backward()
    assert torch.isfinite(loss)
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())


def test_stochastic_depth_survival_falls_linearly_and_the_mean_is_kept():
    """Per branch: alive in a share p_l of the batches, for the whole batch, and scaled so that its
    mean is the branch.
    """
    torch.manual_seed(0)
    method = StochasticDepth(last_survival=0.4)
    backbone = resnet18(4, 3)
    method.wrap_model(backbone)
    expected = [1 - depth / 8 * 0.6 for depth in range(1, 9)]
    assert method.survival.tolist() == pytest.approx(expected)

    class Branches(
        nn.Module
    ):  # the same method on eight bare branches of a constant output, many times
        def __init__(self):
            super().__init__()
            self.parts = nn.ModuleList(nn.Identity() for _ in range(8))
            self.outputs = []

        def residual_branches(self):
            return list(self.parts)

        def forward(self, images):
            self.outputs.append(
                torch.stack([part(torch.ones(len(images))) for part in self.parts])
            )
            return torch.zeros(len(images), 4)

    bare = Branches()
    model, generator = method.wrap_model(bare), draws(0)
    for _ in range(4000):
        method.loss(model, *batch(3), StepContext(generator))
    outputs = torch.stack(bare.outputs)  # (steps, branches, samples)
    assert torch.equal(outputs.amax(2), outputs.amin(2)), "the whole batch or none of it"
    rates = (outputs[:, :, 0] > 0).float().mean(0)
    for rate, probability, mean in zip(rates, expected, outputs[:, :, 0].mean(0), strict=True):
        error = math.sqrt(probability * (1 - probability) / 4000)
        assert abs(float(rate) - probability) < 4 * error
        assert abs(float(mean) - 1) < 4 * error / probability


def test_stochastic_depth_leaves_out_branches_and_their_gradients():
    torch.manual_seed(0)
    method = StochasticDepth(last_survival=0.01)
    model = method.wrap_model(resnet8(4, 3, width=8))
    seed = next(
        s
        for s in range(99)
        if (draws(s).random(3) < method.survival).tolist() == [True, False, False]
    )
    loss, _, _, logs = method.loss(model, *batch(), StepContext(draws(seed)))
    loss.backward()
    assert logs == {"survived": pytest.approx(1 / 3)}
    touched = [
        any(p.grad is not None and p.grad.any() for p in b.parameters())
        for b in model.residual_branches()
    ]
    assert touched == [True, False, False]
    assert model.stem[0].weight.grad.any()


def test_stochastic_depth_with_every_branch_surviving_is_the_plain_network():
    torch.manual_seed(0)
    method = StochasticDepth(last_survival=1.0)
    model = method.wrap_model(PyramidNet(20, 12, 4, 3))
    images, targets = batch()
    assert torch.equal(
        method.loss(model, images, targets, StepContext(draws(0)))[1], model(images)
    )
