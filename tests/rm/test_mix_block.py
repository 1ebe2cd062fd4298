"""The mix block, its masks' loss and their adjusting, as pure pieces."""

import itertools
import math

import pytest
import torch

from rm.methods._mix_block import MixBlock, adjusted, mask_loss, rescaled
from rm.methods._momentum import follow, momentum_at
from rm.schedules import Progress, cosine_floor

SIZE = (16, 20)
AUTOMIX = {"attention": "cross", "share_key": True, "content": "linear", "upsampling": "nearest"}
BLOCKS = {
    "amix": {},
    "amix, rescaled": {"rescale": 0.25},
    "amix, as the paper": {
        "share_key": True,
        "gamma": "learned",
        "activation": "relu",
        "sigmoid_first": True,
    },
    "automix": {"encoding": "none", **AUTOMIX},
    "automix, channel": {"encoding": "channel", **AUTOMIX},
}


def block_of(name, channels=8, spread=0.5):
    """A block; a spread > 0 moves it far from its start, where masks are constant."""
    torch.manual_seed(1)
    block = MixBlock(channels, **BLOCKS[name])
    for parameter in block.parameters():
        parameter.data += spread * torch.randn_like(parameter)
    return block


def maps(batch=3, channels=8, height=4, width=5):
    generator = torch.Generator().manual_seed(2)
    return torch.randn(2, batch, channels, height, width, generator=generator)


@pytest.mark.parametrize("name", BLOCKS)
def test_a_mask_is_within_0_and_1_and_the_attention_sums_to_1(name):
    block, (own, partner) = block_of(name).eval(), maps()
    mask = block(own, partner, 0.3, SIZE)
    assert mask.shape == (3, *SIZE)
    assert mask.min() > 0
    assert mask.max() < 1
    encoded = block._encoded(own, 0.3), block._encoded(partner, 0.7)
    weights = block.attention_weights(*encoded)
    assert torch.allclose(weights.sum(2), torch.ones(3, 20))
    value = block.value(encoded[1]).flatten(1)
    low, high = value.min(1).values.sigmoid(), value.max(1).values.sigmoid()
    assert (mask >= low[:, None, None] - 1e-6).all()
    assert (mask <= high[:, None, None] + 1e-6).all()
    assert mask.std() > 1e-4, "these blocks are far from constant"


@pytest.mark.parametrize("name", BLOCKS)
def test_positions_and_samples_keep_to_themselves(name):
    block, (own, partner) = block_of(name).eval(), maps()
    low = block(own, partner, 0.3, (4, 5))
    order = torch.randperm(20, generator=torch.Generator().manual_seed(4))

    def permuted(x):
        return x.flatten(-2)[..., order].view(x.shape)

    again = block(permuted(own), permuted(partner), 0.3, (4, 5))
    assert torch.allclose(again, permuted(low), atol=1e-6)
    alone = torch.cat([block(own[i : i + 1], partner[i : i + 1], 0.3, (4, 5)) for i in range(3)])
    assert torch.allclose(low, alone, atol=1e-6)
    block.train()
    other = partner.clone()
    other[2] += 1
    changed = block(own, other, 0.3, (4, 5))[:2] - block(own, partner, 0.3, (4, 5))[:2]
    norm = BLOCKS[name].get("content") != "linear"
    assert (changed.abs().max() > 1e-5) == norm, "samples meet in the batch norm alone"


@pytest.mark.parametrize("name", BLOCKS)
def test_who_knows_lambda(name):
    block, (own, partner) = block_of(name).eval(), maps()
    one, other = (block(own, partner, lam, SIZE) for lam in (0.2, 0.9))
    assert torch.equal(one, other) == (name == "automix")


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("lam", [0.0, 0.37, 1.0])
def test_at_the_start_masks_are_near_a_half(name, lam):
    torch.manual_seed(0)
    block = MixBlock(64, **BLOCKS[name])
    mask = block(*maps(4, 64), lam, SIZE)
    assert (mask - 0.5).abs().max() < 0.1


def test_without_the_last_value_convolution_a_mask_is_a_half():
    block = block_of("amix")
    torch.nn.init.zeros_(block.value[3].weight)
    assert torch.equal(block(*maps(), 0.3, SIZE), torch.full((3, *SIZE), 0.5))


def test_a_bias_of_the_keys_changes_nothing():
    """Attention is invariant to it; AutoMix's keys share their bias with the queries."""
    block = block_of("amix").double()
    own, partner = maps().double()
    before = block(own, partner, 0.3, SIZE)
    (gradient,) = torch.autograd.grad(before.square().sum(), block.key.bias, retain_graph=True)
    assert gradient.abs().max() < 1e-12
    block.key.bias.data += torch.randn(4).double()
    assert torch.allclose(block(own, partner, 0.3, SIZE), before, atol=1e-12)


def test_rescaling_keeps_its_fixed_points_and_grows():
    grid = [i / 100 for i in range(101)]
    for k in (0.0, 0.25, 1.0):
        assert [rescaled(lam, k) for lam in (0.0, 0.5, 1.0)] == pytest.approx([0, 0.5, 1])
        values = [rescaled(lam, k) for lam in grid]
        # With k = 0 the slope at 1/2 is 0, and rounding decides.
        assert all(a < b + 1e-12 for a, b in itertools.pairwise(values))
        assert [1 - v for v in values] == pytest.approx(values[::-1])
    assert rescaled(0.3, None) == 0.3


def test_numbers_of_parameters():
    def count(channels, **options):
        return sum(p.numel() for p in MixBlock(channels, **options).parameters())

    assert [count(256), count(1024)] == [164_480, 2_624_000]
    plain, channel = BLOCKS["automix"], BLOCKS["automix, channel"]
    assert [count(256, **plain), count(1024, **plain)] == [33_153, 525_825]
    assert [count(256, **channel), count(1024, **channel)] == [33_282, 526_338]


@pytest.mark.parametrize("side", [(7, 9), (1, 1), (2, 3), (64, 64)])
@pytest.mark.parametrize("name", ["amix", "automix"])
def test_any_size_of_picture_and_a_batch_of_one(name, side):
    block = block_of(name)
    mask = block(*maps(1, height=2, width=3), 0.5, side)
    assert mask.shape == (1, *side)
    assert mask.isfinite().all()


def test_a_learned_gamma_starts_without_lambda_and_stays_in_its_bounds():
    block = MixBlock(8, gamma="learned").eval()
    own, partner = maps()
    assert torch.equal(block(own, partner, 0.1, SIZE), block(own, partner, 0.9, SIZE))
    block.gamma.data.fill_(1.5)
    block.clamp_gamma()
    assert block.gamma == 1
    plain = MixBlock(8).eval()
    plain.load_state_dict({k: v for k, v in block.state_dict().items() if k != "gamma"})
    assert torch.equal(block(own, partner, 0.1, SIZE), plain(own, partner, 0.1, SIZE))


def test_the_mask_loss_has_a_margin_and_rewards_variance():
    torch.manual_seed(0)
    mask = torch.rand(4, 6, 6, requires_grad=True)
    inside = 1 - mask.mean().item() + 0.05
    assert mask_loss(mask, inside) == 0
    (flat,) = torch.autograd.grad(mask_loss(mask, inside), mask)
    assert not flat.any(), "within the margin nothing pulls"
    (pull,) = torch.autograd.grad(mask_loss(mask, inside, variance="released"), mask)
    assert ((pull < 0) == (mask > mask.mean())).all(), "descending moves pixels from the mean"
    (printed,) = torch.autograd.grad(mask_loss(mask, inside, variance="paper"), mask)
    means = mask.mean((1, 2), keepdim=True)
    assert ((printed > 0) == (mask > means)).all(), "the printed sign asks for constant masks"
    assert mask_loss(torch.full((2, 3, 3), 0.9), 0.7) == pytest.approx(0.5)
    halves = torch.stack([torch.zeros(3, 3), torch.ones(3, 3)])
    assert mask_loss(halves, 0.5) == 0
    assert mask_loss(halves, 0.5, mean="sample") == pytest.approx(0.4)
    assert mask_loss(halves, 0.5, variance="released") == pytest.approx(-0.5)


@pytest.mark.parametrize("lam", [0.0, 0.05, 0.5, 0.93, 1.0])
def test_adjusting_meets_lambda_and_keeps_the_order(lam):
    torch.manual_seed(0)
    mask = torch.rand(5, 7, 9, dtype=torch.float64)
    moved = adjusted(mask, lam)
    assert torch.allclose(1 - moved.mean((1, 2)), torch.tensor(lam).double(), atol=1e-6)
    assert moved.min() >= 0
    assert moved.max() <= 1
    if 0 < lam < 1:
        one, other = mask.flatten(1).argsort(1), moved.flatten(1).argsort(1)
        assert torch.equal(one, other)
    near = adjusted(mask, lam, dead_zone=1.0)
    assert torch.equal(near, mask)


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("lam", [0.0, 0.4, 1.0])
def test_adjusting_a_mask_that_is_0_or_1_everywhere(value, lam):
    moved = adjusted(torch.full((2, 3, 3), value), lam)
    assert torch.allclose(moved, torch.full((2, 3, 3), 1 - lam))


def test_momentum_holds_and_then_follows_a_cosine_that_does_not_begin_anew():
    def at(step):
        return momentum_at(Progress(1, 1, step, 100), start=0.999, end=0.99999, hold=0.1)

    assert at(0) == at(9) == 0.999
    whole = 0.99999 - (0.99999 - 0.999) * (1 + math.cos(math.pi * 0.1)) / 2
    assert at(10) == pytest.approx(whole, abs=1e-15)
    assert at(10) > 0.999, "it jumps"
    assert at(99) == pytest.approx(0.99999, abs=1e-6)
    slow, fast = [torch.ones(3), torch.zeros(2)], [torch.zeros(3), torch.ones(2)]
    follow(slow, fast, 0.9)
    assert torch.allclose(slow[0], torch.tensor(0.9))
    assert torch.allclose(slow[1], torch.tensor(0.1))
    with pytest.raises(ValueError, match="2 tensors cannot follow 1"):
        follow(slow, fast[:1], 0.9)


def test_a_cosine_with_a_floor_by_hand():
    rates = [0.1 * cosine_floor(Progress(e, 4), floor=0.5) for e in (1, 3)]
    assert rates == pytest.approx([0.1, 0.075])
    assert cosine_floor(Progress(1, 4), floor=0.5, warmup_epochs=1) == 0.5
