"""Labellings of small grids by many labels: alpha-expansion whose moves are exact minima.

In an expansion each cell keeps its label or takes alpha. On a grid of R x R cells, R small, the
best of the 2^(R R) moves is found row by row over the 2^R states of a row, for every alpha and
every problem at once, and for any pairwise costs: no metric is asked for, unlike by a graph cut.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

Costs = NDArray[np.float64]
Labels = NDArray[np.intp]

_TOLERANCE = 1e-12
LARGEST_SIDE = 6


def energy(labels: Labels, unary: Costs, pairwise: Costs) -> Costs:
    """sum unary[label of cell] + sum over neighbours of pairwise[label, label]: (G,).

    labels     (G, R, R)      in 0..K
    unary      (G, K, R, R)
    pairwise   (G, K, K)      symmetric, 0 on the diagonal
    """
    groups = np.arange(len(labels))[:, None, None]
    own = np.take_along_axis(unary, labels[:, None], 1).sum((1, 2, 3))
    down = pairwise[groups, labels[:, :-1], labels[:, 1:]].sum((1, 2))
    right = pairwise[groups, labels[:, :, :-1], labels[:, :, 1:]].sum((1, 2))
    total: Costs = own + down + right
    return total


def expand(labels: Labels, unary: Costs, pairwise: Costs) -> Labels:
    """Labels that no expansion improves, from these: their energy is at most that of the start and
    of every constant labelling. Shapes as in `energy`; ValueError for too large a grid.
    """
    side = labels.shape[1]
    if side > LARGEST_SIDE:
        raise ValueError(f"a grid has at most {LARGEST_SIDE} x {LARGEST_SIDE} cells, not {side}")
    labels = labels.copy()
    running = np.arange(len(labels))
    while len(running):
        found, reached = _best_moves(labels[running], unary[running], pairwise[running])
        before = energy(labels[running], unary[running], pairwise[running])
        alpha = reached.argmin(1)
        places = np.arange(len(running))
        better = reached[places, alpha] < before - _TOLERANCE
        moved = found[places, alpha]
        labels[running] = np.where(
            moved & better[:, None, None], alpha[:, None, None], labels[running]
        )
        running = running[better]
    return labels


def _best_moves(labels: Labels, unary: Costs, pairwise: Costs) -> tuple[NDArray[np.bool_], Costs]:
    """For each group and alpha: where cells take alpha, (G, K, R, R), and the energy, (G, K)."""
    groups, kinds = unary.shape[:2]
    side = labels.shape[1]
    singles, pairs, columns = _states(side)
    kept = np.take_along_axis(unary, labels[:, None], 1)
    choice = np.stack(np.broadcast_arrays(kept, unary), -1)  # (G, K, R, R, 2)
    rows = choice.reshape(groups, kinds, side, -1) @ singles
    right = _neighbours(labels[:, :, :-1], labels[:, :, 1:], pairwise)
    rows = rows + right.reshape(groups, kinds, side, -1) @ pairs
    down = _neighbours(labels[:, :-1], labels[:, 1:], pairwise)
    states = 2**side
    steps = (down.reshape(groups, kinds, side - 1, -1) @ columns).reshape(
        groups, kinds, side - 1, states, states
    )
    best, came = rows[:, :, 0], []
    for row in range(1, side):
        reached = best[..., None] + steps[:, :, row - 1]
        came.append(reached.argmin(2))
        best = reached.min(2) + rows[:, :, row]
    state = best.argmin(2)
    chosen = [state]
    for source in reversed(came):
        state = np.take_along_axis(source, state[..., None], 2)[..., 0]
        chosen.append(state)
    bits = np.stack(chosen[::-1], 2)[..., None] >> np.arange(side) & 1
    return bits.astype(bool), best.min(2)


def _neighbours(first: Labels, second: Labels, pairwise: Costs) -> Costs:
    """What a pair of cells costs if neither, the second, the first, or both take alpha:
    (G, K, ..., 4).
    """
    groups, kinds = pairwise.shape[:2]
    each = np.arange(groups)[:, None, None]
    still = pairwise[each, first, second][:, None]
    by_alpha = pairwise.transpose(0, 2, 1)
    second_moves = by_alpha[each, first].transpose(0, 3, 1, 2)
    first_moves = by_alpha[each, second].transpose(0, 3, 1, 2)
    still = np.broadcast_to(still, (groups, kinds, *first.shape[1:]))
    return np.stack([still, second_moves, first_moves, np.zeros_like(second_moves)], -1)


@cache
def _states(side: int) -> tuple[Costs, Costs, Costs]:
    """One-hot matrices from costs of a row's cells and neighbours to its 2^R states, and from
    those of two rows' neighbours to the states of both.
    """
    bits = np.arange(2**side)[:, None] >> np.arange(side) & 1  # (S, R)
    eye2, eye4 = np.eye(2), np.eye(4)
    singles = eye2[bits].reshape(2**side, -1).T
    pairs = eye4[2 * bits[:, :-1] + bits[:, 1:]].reshape(2**side, -1).T
    both = eye4[2 * bits[:, None] + bits[None]].reshape(4**side, -1).T
    return singles, pairs, both
