"""The defining properties of the methods that mix or blank the images themselves: Cutout,
ResizeMix, PuzzleMix.
"""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rm import registry
from rm.methods.baseline import Baseline
from rm.methods.cutout import Cutout
from rm.methods.puzzlemix import (
    PuzzleMix,
    log_prior,
    moved,
    pooled_share,
    saliency,
    transport_plan,
)
from rm.methods.resizemix import ResizeMix
from rm.schedules import StepContext
from rm.trial import TrialError, parse_trial
from tests.support.rm.networks import Recorder, targets_used


def numbered(count, channels=1, height=8, width=8):
    """Images that are the number of their sample all over."""
    return (
        torch.arange(float(count))
        .reshape(-1, 1, 1, 1)
        .expand(count, channels, height, width)
        .contiguous()
    )


def pixel_counting(count, channels=1, height=8, width=8):
    """Images whose pixels all differ, within a sample and between samples."""
    return torch.arange(float(count * channels * height * width)).reshape(
        count, channels, height, width
    )


# Cutout


def test_cutout_blanks_one_square_at_a_place_of_its_own_in_every_image():
    model, images = Recorder(3), torch.ones(200, 2, 12, 16)
    targets = torch.eye(3)[torch.arange(200) % 3]
    method = Cutout(size=6)
    loss, logits, _, logs = method.loss(
        model, images, targets, StepContext(np.random.default_rng(0))
    )
    hole = model.shown[0] == 0
    assert torch.equal(hole[:, 0], hole[:, 1]), "the same hole in every channel"
    assert torch.equal(model.shown[0][~hole], images[~hole])
    rows, columns = hole[:, 0].any(2), hole[:, 0].any(1)
    assert torch.equal(hole[:, 0], rows[:, :, None] & columns[:, None, :]), "a rectangle"
    for inside, side in ((rows, 12), (columns, 16)):
        assert (inside.int().diff(dim=1).abs().sum(1) <= 2).all(), "in one piece"
        assert set(inside.sum(1).tolist()) == {3, 4, 5, 6}, (
            "whole, or cut off by a border up to its centre"
        )
        # The centre is any pixel, equally: pixel j is covered by the centres j - 2 .. j + 3 that
        # there are.
        chance = torch.tensor(
            [sum(0 <= c < side for c in range(j - 2, j + 4)) / side for j in range(side)]
        )
        assert torch.allclose(inside.float().mean(0), chance, atol=4 * (0.25 / 200) ** 0.5)
    assert float(logs["hole"]) == pytest.approx(hole.float().mean().item())
    assert torch.allclose(targets_used(loss, logits), targets, atol=1e-4), "labels stay"


# ResizeMix


def test_resizemix_pastes_the_whole_partner_at_a_place_of_its_own():
    images = pixel_counting(6, 2, 10, 12)
    places = set()
    for seed in range(8):
        model, method = Recorder(6), ResizeMix()
        loss, logits, _, logs = method.loss(
            model, images, torch.eye(6), StepContext(np.random.default_rng(seed))
        )
        generator = np.random.default_rng(seed)
        scale = [generator.random(), generator.uniform(0.1, 0.8)][1]
        partner, size = generator.permutation(6), (int(10 * scale), int(12 * scale))
        small = F.interpolate(images[partner], size=size)
        for i, shown in enumerate(model.shown[0]):
            if partner[i] == i:
                continue
            new = (shown != images[i])[0]
            top, left = (int(new.any(axis).int().argmax()) for axis in (1, 0))
            assert int(new.sum()) == size[0] * size[1]
            assert torch.equal(shown[:, top : top + size[0], left : left + size[1]], small[i])
            places.add((seed, top, left))
        area = size[0] * size[1] / 120
        assert logs["area"] == pytest.approx(area)
        wanted = (1 - area) * torch.eye(6) + area * torch.eye(6)[partner]
        assert torch.allclose(targets_used(loss, logits), wanted, atol=1e-4)
    assert len(places) > 16, "each image has its own place"


def test_resizemix_never_leaves_the_image_and_can_be_left_out():
    images, targets = torch.ones(64, 1, 7, 9), torch.eye(64)
    model, method = Recorder(64), ResizeMix(low=0.8, high=1.0)
    for seed in range(20):
        logs = method.loss(model, images, targets, StepContext(np.random.default_rng(seed))).logs
        assert 5 * 7 / 63 <= logs["area"] <= 1
    torch.manual_seed(0)
    plain = Baseline().loss(model, images, targets, StepContext(np.random.default_rng(0)))
    assert torch.equal(
        ResizeMix(probability=0.0).loss(
            model, images, targets, StepContext(np.random.default_rng(0))
        )[0],
        plain[0],
    )
    small = {"seed": 0, "train": {"epochs": 1, "batch_size": 1}, "dataset": {"name": "digits"}}
    small |= {
        "backbone": {"name": "resnet8"},
        "optimizer": {"name": "sgd", "lr": 1.0},
        "schedule": {"name": "constant"},
    }
    with pytest.raises(TrialError, match="low <= high"):
        parse_trial(small | {"method": {"name": "resizemix", "low": 0.5, "high": 0.2}})


# PuzzleMix


def network(channels=3, classes=5):
    torch.manual_seed(0)
    return registry.load("backbone", "resnet8")(classes, channels, width=8)


def test_saliency_is_the_gradient_of_the_loss_and_leaves_no_trace():
    model, images = network(), torch.randn(6, 3, 12, 16)
    targets = torch.eye(5)[torch.arange(6) % 5] * 0.9 + 0.02
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ours = saliency(model, images, targets)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    probe = images.clone().requires_grad_()
    model.eval()
    (-(targets * model(probe).log_softmax(1)).sum(1)).mean().backward()
    theirs = probe.grad.square().mean(1).sqrt()
    assert torch.allclose(pooled_share(ours, (12, 16)), pooled_share(theirs, (12, 16)), atol=1e-6)
    assert torch.allclose(pooled_share(ours, (4, 2)).sum((1, 2)), torch.ones(6))
    assert torch.equal(pooled_share(torch.zeros(1, 4, 4), (2, 2)), torch.full((1, 2, 2), 0.25))


def test_parameters_get_the_gradients_of_the_mixed_images_alone_also_under_autocast():
    images, targets = torch.randn(4, 3, 16, 16), torch.eye(5)[:4]
    for precise in (True, False):
        gradients = []
        for passes in (1, 0):
            model = network()
            with torch.autocast("cpu", torch.bfloat16, enabled=not precise):
                for _ in range(passes):
                    assert torch.isfinite(saliency(model, images, targets)).all()
                loss, *_ = Baseline().loss(
                    model, images, targets, StepContext(np.random.default_rng(0))
                )
            loss.backward()
            gradients.append([parameter.grad for parameter in model.parameters()])
        assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def puzzle_energy(method, taken, pixels, share, blocks, kept):
    """Eq. 5 as it is written, in plain loops, for one image and a binary mask: taken (n, n) in {0
    its partner's, 1 its own}.
    """
    size = pixels[0].shape[-2] // blocks, pixels[0].shape[-1] // blocks
    cells = list(itertools.product(range(blocks), repeat=2))
    total, weight = 0.0, method.beta / 16 / blocks
    for y, x in cells:
        total += float(share[1 - taken[y, x]][y, x])  # the saliency that is lost
        total += method.eta * log_prior(2, kept)[1 - taken[y, x]] / blocks**2
    for (y, x), (dy, dx) in itertools.product(cells, ((1, 0), (0, 1))):
        if y + dy == blocks or x + dx == blocks:
            continue
        one, other = pixels[taken[y, x]], pixels[taken[y + dy, x + dx]]
        if dy:
            row, span = (y + 1) * size[0], slice(x * size[1], (x + 1) * size[1])
            jump = (one[:, row - 1, span] - other[:, row, span]).abs().mean()
        else:
            column, span = (x + 1) * size[1], slice(y * size[0], (y + 1) * size[0])
            jump = (one[:, span, column - 1] - other[:, span, column]).abs().mean()
        total += weight * (taken[y, x] != taken[y + dy, x + dx]) + weight * method.gamma * float(
            jump
        )
    return total


@pytest.mark.parametrize("beta", [0.3, 1.2, 3.0])
def test_the_puzzle_mask_is_the_minimum_of_the_papers_energy(beta):
    torch.manual_seed(int(beta * 10))
    pixels, salient = torch.rand(5, 3, 6, 8), torch.rand(5, 6, 8) ** 4
    partner = torch.tensor([1, 2, 3, 4, 0])
    method = PuzzleMix(labels=2, beta=beta, neighbourhood=1, pixel_std=0.25)
    share, used = pooled_share(salient, (2, 2)), set()
    for kept in (0.2, 0.5, 0.9):
        mask = method.mask(pixels / 0.25 - 1.7, salient, partner, 2, kept)
        for i in range(5):
            parts, shares = (pixels[partner[i]], pixels[i]), (share[partner[i]], share[i])
            every = [np.array(bits).reshape(2, 2) for bits in itertools.product((0, 1), repeat=4)]
            costs = [puzzle_energy(method, taken, parts, shares, 2, kept) for taken in every]
            ours = puzzle_energy(method, mask[i].int().numpy(), parts, shares, 2, kept)
            assert ours == pytest.approx(min(costs), abs=1e-5)
            used.add(tuple(mask[i].flatten().tolist()))
    assert len(used) > 2


def test_the_prior_draws_the_mask_to_lambda():
    images, salient, partner = (
        torch.rand(4, 1, 16, 16),
        torch.rand(4, 16, 16),
        torch.tensor([1, 0, 3, 2]),
    )
    for labels in (2, 3, 4):
        method = PuzzleMix(labels=labels, eta=20.0)
        assert (method.mask(images, salient, partner, 4, 1 - 1e-6) == 1).all()
        assert (method.mask(images, salient, partner, 4, 1e-6) == 0).all()
    means = [
        PuzzleMix().mask(images, salient, partner, 8, kept).mean() for kept in (0.1, 0.5, 0.9)
    ]
    assert means == sorted(means)


def test_puzzlemix_labels_follow_the_mask():
    images = 3.0 ** numbered(5, 1, 16, 16)
    model, shown, areas = network(1), [], set()
    model.register_forward_pre_hook(lambda module, inputs: shown.append(inputs[0].detach()))
    for seed in range(12):
        method = PuzzleMix()
        loss, logits, _, logs = method.loss(
            model, images, torch.eye(5), StepContext(np.random.default_rng(seed))
        )
        used = targets_used(loss, logits)
        assert torch.allclose(used.sum(1), torch.ones(5), atol=1e-4)
        mixture = used @ images[:, 0, 0, 0]
        assert torch.allclose(shown[-1].mean((1, 2, 3)), mixture, rtol=1e-3), (
            "what is shown is what is labelled"
        )
        assert float(logs["area"]) <= 1
        areas.add(float(logs["area"]))
    assert len(shown) == 24, "two forward passes a step"
    assert len(areas) > 4


def test_transport_brings_salient_cells_into_the_mask():
    share = torch.tensor([[[0.7, 0.02, 0.03], [0.05, 0.05, 0.05], [0.03, 0.03, 0.04]]])
    wanted = torch.tensor([[[0.0, 0.5, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]])
    plan = transport_plan(wanted, share, 0.8)[0]
    assert plan[1] == 0, "the most salient cell comes to the wanted place nearest to it"
    assert plan[4] in (1, 4), "and what it drove away, if anything, asks for the next one"
    assert torch.equal(transport_plan(wanted, share, 100.0)[0][[1, 4]], torch.tensor([1, 4])), (
        "too expensive: all stay"
    )
    torch.manual_seed(0)
    for grid in ((4, 4), (8, 8), (2, 3)):
        share = pooled_share(torch.rand(6, 48, 48) ** 8, grid)
        wanted = torch.randint(3, (6, *grid)) / 2
        plan, cells = transport_plan(wanted, share, 0.3), share.flatten(1)
        for sources, place, mass in zip(plan, wanted.flatten(1) > 0, cells, strict=True):
            assert len(sources[place].unique()) == int(place.sum()), "no cell is shown twice"
            assert mass[sources[place]].sum() >= mass[place].sum() - 1e-6, (
                "never less saliency in the mask than before"
            )


def test_each_image_is_moved_into_its_own_part_of_the_mask():
    method = PuzzleMix(transport_cost=0.01, transport_size=2)
    images = torch.rand(2, 1, 8, 8) / 10
    images[0, :, 2:4, 6:8], images[1, :, 4:6, 0:2] = (
        1.0,
        2.0,
    )  # each brightest and most salient in the other's half
    mask = torch.zeros(2, 2, 2)
    mask[0, :, 0] = mask[1, :, 1] = 1
    joined = method._joined(images, images[:, 0], torch.tensor([1, 0]), mask)
    for sample in joined:
        assert (sample[:, :, :4] == 1).sum() == 4
        assert (sample[:, :, 4:] == 2).sum() == 4
    method.transport = False
    assert method._joined(images, images[:, 0], torch.tensor([1, 0]), mask).max() < 0.1


def test_moved_cells_are_whole():
    images = pixel_counting(2, 3, 4, 6)
    assert torch.equal(moved(images, torch.arange(6).expand(2, 6), (2, 3)), images)
    plan = torch.tensor([[5, 1, 2, 3, 4, 0], [0, 0, 0, 0, 0, 1]])
    swapped = moved(images, plan, (2, 3))
    assert torch.equal(swapped[0, :, :2, :2], images[0, :, 2:, 4:])
    assert torch.equal(swapped[0, :, :2, 2:], images[0, :, :2, 2:])
    assert torch.equal(swapped[1, :, 2:, 4:], images[1, :, :2, 2:4])


def test_puzzlemix_says_which_images_it_cannot_divide():
    with pytest.raises(ValueError, match="7 x 8 pixels cannot be"):
        PuzzleMix().loss(
            Recorder(2),
            torch.rand(2, 1, 7, 8),
            torch.eye(2),
            StepContext(np.random.default_rng(0)),
        )
