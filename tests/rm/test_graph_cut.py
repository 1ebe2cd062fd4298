"""The cut is the minimum: against every labelling of small grids, and against what can be said of
large ones.
"""

import itertools

import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_flow

from rm.methods._graph_cut import cut_grid


def energy(labels, unary, down, right):
    """The energy as the docstring has it, in plain loops: labels (H, W), unary (K, H, W)."""
    (top, height, width), total = unary.shape, 0.0
    for y, x in itertools.product(range(height), range(width)):
        total += unary[labels[y][x], y, x]
        if y + 1 < height:
            total += down[y, x] * ((labels[y][x] - labels[y + 1][x]) / (top - 1)) ** 2
        if x + 1 < width:
            total += right[y, x] * ((labels[y][x] - labels[y][x + 1]) / (top - 1)) ** 2
    return total


def every_labelling(top, height, width):
    cells = np.array(list(itertools.product(range(top), repeat=height * width)))
    return cells.reshape(-1, height, width)


def every_energy(unary, down, right):
    """(labellings,): the energy of each, at once."""
    top, height, width = unary.shape
    labels = every_labelling(top, height, width)
    y, x = np.indices((height, width))
    total = unary[labels, y, x].sum((1, 2))
    total += (down * (np.diff(labels, axis=1) / (top - 1)) ** 2).sum((1, 2))
    return total + (right * (np.diff(labels, axis=2) / (top - 1)) ** 2).sum((1, 2))


def instance(rng, batch, top, height, width, strength, whole=False):
    costs = (
        rng.normal(size=(batch, top, height, width)),
        strength * rng.random((batch, height - 1, width)),
        strength * rng.random((batch, height, width - 1)),
    )
    return tuple(np.rint(4 * cost) for cost in costs) if whole else costs


def test_the_fast_energy_is_the_plain_one():
    unary, down, right = (cost[0] for cost in instance(np.random.default_rng(0), 1, 3, 2, 3, 1.0))
    labels = every_labelling(3, 2, 3)[::37]
    assert np.allclose(
        [energy(x, unary, down, right) for x in labels], every_energy(unary, down, right)[::37]
    )


@pytest.mark.parametrize("whole", [False, True], ids=["real", "whole"])
@pytest.mark.parametrize(
    "size", [(2, 3, 4), (2, 4, 3), (3, 2, 4), (3, 3, 3), (4, 2, 3), (5, 1, 4), (2, 1, 1)], ids=str
)
def test_no_labelling_of_a_small_grid_is_better(size, whole):
    rng = np.random.default_rng(sum(size))
    for strength in (0, 0.3, 1, 4):
        costs = instance(rng, 4, *size, strength, whole)
        for labels, *of_sample in zip(cut_grid(*costs), *costs, strict=True):
            assert energy(labels, *of_sample) <= every_energy(*of_sample).min() + 1e-6


def test_samples_do_not_depend_on_their_batch():
    costs = instance(np.random.default_rng(5), 6, 3, 8, 4, 0.8)
    together = cut_grid(*costs)
    apart = np.concatenate([cut_grid(*(cost[i : i + 1] for cost in costs)) for i in range(6)])
    assert np.array_equal(together, apart)
    assert len(np.unique(together)) == 3


def test_weights_pull_neighbours_together():
    unary, _, _ = instance(np.random.default_rng(1), 2, 3, 16, 16, 1.0)
    free = cut_grid(unary, np.zeros((2, 15, 16)), np.zeros((2, 16, 15)))
    assert np.array_equal(free, unary.argmin(1)), (
        "without weights each cell has its cheapest label"
    )
    bound = cut_grid(unary, np.full((2, 15, 16), 1e3), np.full((2, 16, 15), 1e3))
    assert np.array_equal(bound[:, 0, 0], unary.sum((2, 3)).argmin(1)), (
        "with large ones all cells have the cheapest one"
    )
    assert (bound == bound[:, :1, :1]).all()


def test_a_large_cut_costs_as_much_as_the_largest_flow():
    unary, down, right = (
        cost[0].astype(int)
        for cost in instance(np.random.default_rng(4), 1, 2, 16, 16, 2.0, whole=True)
    )
    cells = np.arange(256).reshape(16, 16)
    source, sink = np.full(256, 256), np.full(256, 257)
    first = np.concatenate([cells[:-1].ravel(), cells[:, :-1].ravel()])
    second = np.concatenate([cells[1:].ravel(), cells[:, 1:].ravel()])
    between, gain = np.concatenate([down.ravel(), right.ravel()]), (unary[1] - unary[0]).ravel()
    tails = np.concatenate([first, second, source, cells.ravel()])
    heads = np.concatenate([second, first, cells.ravel(), sink])
    capacities = np.concatenate([between, between, np.maximum(-gain, 0), np.maximum(gain, 0)])
    flow = maximum_flow(
        csr_array((capacities.astype(np.int32), (tails, heads)), shape=(258, 258)), 256, 257
    )
    labels = cut_grid(unary[None], down[None], right[None])[0]
    assert 0 < labels.mean() < 1
    assert energy(labels, unary, down, right) == flow.flow_value + unary.min(0).sum()


def test_no_single_change_improves_a_large_grid():
    rng = np.random.default_rng(2)
    unary, down, right = (cost[0] for cost in instance(rng, 1, 3, 16, 16, 0.7))
    labels = cut_grid(unary[None], down[None], right[None])[0]
    best = energy(labels, unary, down, right)
    for _ in range(150):
        other = labels.copy()
        height, width = rng.integers(1, 6, 2)
        y, x = rng.integers(0, 16, 2)
        other[y : y + height, x : x + width] = rng.integers(3)
        assert energy(other, unary, down, right) >= best - 1e-6


def test_what_is_no_minimum_cut_is_refused():
    unary, down, right = instance(np.random.default_rng(3), 1, 2, 3, 3, 1.0)
    with pytest.raises(ValueError, match="weights must be >= 0"):
        cut_grid(unary, down - 1, right)
    with pytest.raises(ValueError, match="right has costs that are not finite"):
        cut_grid(unary, down, right * np.nan)
    with pytest.raises(ValueError, match="at least 2 labels, found 1"):
        cut_grid(unary[:, :1], down, right)
