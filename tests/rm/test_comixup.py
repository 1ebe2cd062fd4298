"""Co-Mixup: expansions against all labellings, what is mixed, and what the solver never does."""

import itertools

import numpy as np
import pytest
import torch

from rm import registry
from rm.methods._blends import blend_parents, distances, label_table, labels_of
from rm.methods._expansion import _best_moves, energy, expand
from rm.methods._mixture_problem import Problem, Weights
from rm.methods.comixup import CoMixup
from rm.schedules import StepContext


def context(seed=0):
    return StepContext(np.random.default_rng(seed))


def drawn(groups=3, kinds=4, side=3, seed=0):
    """Costs that are no metric."""
    rng = np.random.default_rng(seed)
    pairwise = rng.random((groups, kinds, kinds))
    pairwise = pairwise + pairwise.transpose(0, 2, 1)
    pairwise[:, range(kinds), range(kinds)] = 0
    unary = 2 * rng.standard_normal((groups, kinds, side, side))
    return rng.integers(kinds, size=(groups, side, side)), unary, pairwise


@pytest.mark.parametrize("seed", range(3))
def test_a_move_is_the_best_of_all(seed):
    labels, unary, pairwise = drawn(seed=seed)
    found, reached = _best_moves(labels, unary, pairwise)
    for alpha in range(4):
        every = []
        for bits in itertools.product((False, True), repeat=9):
            moved = np.where(np.array(bits).reshape(3, 3), alpha, labels)
            every.append(energy(moved, unary, pairwise))
        assert reached[:, alpha] == pytest.approx(np.min(every, 0))
        mine = np.where(found[:, alpha], alpha, labels)
        assert energy(mine, unary, pairwise) == pytest.approx(reached[:, alpha])


def test_an_energy_by_hand():
    labels, unary, pairwise = drawn(1, 2, 2)
    (a, b), (c, d) = labels[0]
    cost = pairwise[0]
    by_hand = sum(unary[0, x, i, j] for x, i, j in ((a, 0, 0), (b, 0, 1), (c, 1, 0), (d, 1, 1)))
    by_hand += cost[a, b] + cost[c, d] + cost[a, c] + cost[b, d]
    assert energy(labels, unary, pairwise)[0] == pytest.approx(by_hand)


@pytest.mark.parametrize("seed", range(10))
def test_expansion_never_raises_the_energy_and_beats_every_constant(seed):
    labels, unary, pairwise = drawn(4, 6, 4, seed)
    found = energy(expand(labels, unary, pairwise), unary, pairwise)
    assert (found <= energy(labels, unary, pairwise) + 1e-9).all()
    for label in range(6):
        constant = np.full_like(labels, label)
        assert (found <= energy(constant, unary, pairwise) + 1e-9).all()
    with pytest.raises(ValueError, match="at most 6 x 6 cells, not 7"):
        expand(np.zeros((1, 7, 7), dtype=int), np.zeros((1, 2, 7, 7)), np.zeros((1, 2, 2)))


def problem(count=6, groups=2, seed=0):
    rng = np.random.default_rng(seed)
    shares = rng.gamma(0.5, size=(groups, count, 4, 4))
    shares /= shares.sum((2, 3), keepdims=True)
    prior = rng.dirichlet(np.full(count, 2.0), groups)
    return Problem(shares, prior, np.broadcast_to(np.eye(count), (groups, count, count)))


@pytest.mark.parametrize("seed", range(5))
def test_a_solution_is_a_distribution_and_never_worse_than_the_start(seed):
    one, weights = problem(seed=seed), Weights()
    rng = np.random.default_rng(seed)
    start = np.random.default_rng(seed).integers(6, size=(2, 6, 4, 4))
    begun = one.total(np.moveaxis(np.eye(6)[start], -1, 2), weights)
    solved = one.solve(weights, 4, rng)
    assert solved.shape == (2, 6, 6, 4, 4)
    assert np.array_equal(solved.sum(2), np.ones((2, 6, 4, 4)))
    assert set(np.unique(solved)) <= {0.0, 0.5, 1.0}
    assert (one.total(solved.astype(float), weights) <= begun).all()
    constant = np.zeros((2, 6, 6, 4, 4))
    constant[:, :, 0] = 1
    assert (one.total(solved.astype(float), weights) < one.total(constant, weights)).all()


def test_outputs_are_kept_from_showing_the_same():
    """One image has all that is salient: without gamma every output shows it."""
    shares = np.full((1, 5, 4, 4), 1e-3)
    shares[0, 2] = 1 / 16
    one = Problem(shares, np.full((1, 5), 0.2), np.eye(5)[None])
    alone = one.solve(Weights(gamma=0.0), 4, np.random.default_rng(0))
    assert (alone[0, :, 2] == 1).all()
    crowded = one.solve(Weights(), 4, np.random.default_rng(0))
    assert (crowded[0, :, 2] == 1).mean() < 0.8


def test_labels_of_half_of_each():
    mixture = np.zeros((1, 3, 2, 2))
    mixture[0, 0, 0], mixture[0, 2, 1] = 1, 1
    parents = blend_parents(mixture, True)
    assert parents.tolist() == [[[0, 2], [-1, -1], [-1, -1]]]
    assert (blend_parents(mixture, False) == -1).all()
    table = label_table(3, parents)
    assert table[0, 3].tolist() == [0.5, 0, 0.5]
    between = distances(table, parents)[0]
    assert [between[3, 0], between[2, 3], between[3, 1], between[0, 1]] == [0.25, 0.25, 1, 1]
    assert labels_of(mixture, table).tolist() == [[[0, 0], [2, 2]]]
    mixture[0, :, 1] = np.array([0.5, 0, 0.5])[:, None]
    assert labels_of(mixture, table).tolist() == [[[0, 0], [3, 3]]]


@pytest.mark.parametrize("size", [(6, 16, 16), (5, 7, 9), (3, 2, 3)])
def test_every_output_shows_what_its_label_says(size):
    count, *side = size
    method = CoMixup(partition=4)
    model = registry.load("backbone", "resnet8")(count, 3, width=8)
    images = torch.randn(count, 3, *side)
    output = method(model, images, torch.eye(count), context())
    mixed = output.mixed
    assert torch.allclose(mixed.targets.sum(1), torch.ones(count))
    assert (mixed.targets >= 0).all()
    assert (mixed.targets[:4, 4:] == 0).all(), "only images of one part are mixed"
    marked = torch.arange(float(count))[:, None, None, None].expand(images.shape).contiguous()
    shown = method._mixed(marked, torch.eye(count), context(), torch.randn_like(images))
    if side == [16, 16]:
        value = shown.images.mean((1, 2, 3))
        assert torch.allclose(value, shown.targets @ torch.arange(float(count)), atol=1e-5)
    output.loss.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_one_image_stays_what_it_is():
    for images in (torch.randn(1, 3, 8, 8), torch.zeros(1, 3, 8, 8)):
        model = registry.load("backbone", "resnet8")(3, 3, width=8)
        mixed = CoMixup().mix(images, torch.eye(3)[:1], context(), model)
        assert torch.equal(mixed.images, images)
        assert torch.equal(mixed.targets, torch.eye(3)[:1])


def test_the_clean_loss_is_trained_on_too():
    torch.manual_seed(0)
    model = registry.load("backbone", "resnet8")(4, 3, width=8).eval()
    images, targets = torch.randn(4, 3, 16, 16), torch.eye(4)
    one = CoMixup(clean=0.0)(model, images, targets, context()).loss
    both = CoMixup(clean=2.0)(model, images, targets, context()).loss
    clean = torch.nn.functional.cross_entropy(model(images), targets)
    assert torch.allclose(both - one, 2 * clean, atol=1e-6)
