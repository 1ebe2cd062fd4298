"""The labels of Co-Mixup: one of n images, or half of each of two of them."""

import numpy as np

from rm.methods._expansion import Costs, Labels

BLENDS = 3
"""How many half-and-halfs an output has at most."""
BLEND_COST = 0.25
"""What one costs beside one of its parents; other different labels cost 1."""


def jumps(mixture: Costs, axis: int) -> Costs:
    """Neighbours that differ, along an axis of (G, n, R, R): (G,), a parent and a half of it as
    BLEND_COST.
    """
    first = np.take(mixture, range(mixture.shape[axis] - 1), axis)
    second = np.take(mixture, range(1, mixture.shape[axis]), axis)
    overlap = (first * second).sum(1)
    same = (first == second).all(1)
    half = (overlap == 0.5) & ((first == 1).any(1) | (second == 1).any(1))
    count: Costs = np.where(same, 0.0, np.where(half, BLEND_COST, 1.0)).sum((1, 2))
    return count


def blend_parents(mixture: Costs, blends: bool) -> Labels:
    """Pairs of images whose half-and-half an output may show: (G, 3, 2), -1 for none. Two images:
    their pair; more: the pairs of the three largest.
    """
    groups = len(mixture)
    parents = np.full((groups, BLENDS, 2), -1, dtype=np.intp)
    if not blends:
        return parents
    amounts = mixture.sum((2, 3))
    for group in range(groups):
        order = np.argsort(-amounts[group], kind="stable")
        largest = [int(i) for i in order[:3] if amounts[group, i] > 0]
        pairs = [(a, b) for i, a in enumerate(largest) for b in largest[i + 1 :]]
        for place, pair in enumerate(pairs):
            parents[group, place] = pair
    return parents


def label_table(count: int, parents: Labels) -> Costs:
    """What each label shows: (G, n + 3, n)."""
    groups = len(parents)
    table = np.zeros((groups, count + BLENDS, count))
    table[:, :count] = np.eye(count)
    for place in range(BLENDS):
        for group in range(groups):
            if parents[group, place, 0] >= 0:
                table[group, count + place, parents[group, place]] = 0.5
    return table


def distances(table: Costs, parents: Labels) -> Costs:
    """Between labels: 1, but BLEND_COST between a half-and-half and its parents. (G, K, K)."""
    groups, kinds, count = table.shape
    found = np.broadcast_to(1 - np.eye(kinds), (groups, kinds, kinds)).copy()
    for group, place in np.argwhere(parents[..., 0] >= 0):
        for parent in parents[group, place]:
            found[group, count + place, parent] = BLEND_COST
            found[group, parent, count + place] = BLEND_COST
    return found


def labels_of(mixture: Costs, table: Costs) -> Labels:
    """The label that shows what each cell shows, or for a half-and-half that is no label any more
    the nearest one: (G, n, R, R) -> (G, R, R).
    """
    match = np.einsum("gkn,gnyx->gkyx", table, mixture)
    match -= 0.5 * (table**2).sum(2)[..., None, None]
    labels: Labels = match.argmax(1)
    return labels
