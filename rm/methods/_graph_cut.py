"""Exact minimum cuts on small grids, a whole batch at once: the block masks of PuzzleMix.

A grid of K ordered labels with unary costs and quadratic, non-negative neighbour costs is a
minimum cut (Ishikawa, PAMI 2003): one node for every cell and threshold "label >= a". The cut is
found by push-relabel (Goldberg & Tarjan, JACM 1988), every sample, cell and arc of one direction
in one NumPy operation. Capacities are integers, so the result is exact and the same everywhere.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Costs = NDArray[np.floating]
Whole = NDArray[np.int32]

RESOLUTION = 2**28
"""Costs are rounded to this fraction of a sample's total, so that no sum of them leaves 32
bits.
"""
_ENDLESS = 2**30
_FAR = 2**29
_PATIENCE = 8


def cut_grid(unary: Costs, down: Costs, right: Costs) -> NDArray[np.intp]:
    """The labels x that minimise sum unary[x_p] + sum weight_pq * ((x_p - x_q) / (K - 1))^2 over
    each grid.

    unary     (B, K, H, W)    cost of each label in each cell, of any sign
    down      (B, H-1, W)     weight between a cell and the one below, >= 0
    right     (B, H, W-1)     weight between a cell and the one to its right, >= 0
    returns   (B, H, W)       labels 0..K-1; ValueError for a negative or non-finite weight, for
              which this is no minimum cut
    """
    for name, values in (("unary", unary), ("down", down), ("right", right)):
        if not np.isfinite(values).all():
            raise ValueError(f"{name} has costs that are not finite")
    if unary.shape[1] < 2:
        raise ValueError(f"a cut needs at least 2 labels, found {unary.shape[1]}")
    if min(down.min(initial=0), right.min(initial=0)) < 0:
        raise ValueError("neighbour weights must be >= 0")
    flow = _Flow(unary, down, right)
    labels = np.zeros((len(unary), *unary.shape[2:]), dtype=np.intp)
    running = np.arange(len(unary))
    while len(running):
        flow.measure()
        upper = (
            flow.height >= _FAR
        )  # cannot reach the sink: the source's side of the cut, "label >= a"
        done = ~((flow.excess > 0) & ~upper).any(axis=(0, 2, 3))
        labels[running[done]] = upper[:, done].sum(axis=0)
        running = running[~done]
        if done.any():
            flow.keep(~done)
        for _ in range(_PATIENCE if len(running) else 0):
            flow.push()
            flow.relabel()
    return labels


@dataclass
class _Link:
    """The arcs between layer `tail` and layer `head`, from each cell to its neighbour along `axis`
    (None: itself), both ways.
    """

    tail: int
    head: int
    axis: int | None
    forward: Whole
    backward: Whole

    def ends(self, nodes: Whole) -> tuple[Whole, Whole]:
        """The nodes at either end, as views of (layers, B, H, W)."""
        tail, head = nodes[self.tail], nodes[self.head]
        if self.axis is None:
            return tail, head
        return (tail[:, :-1], head[:, 1:]) if self.axis == 0 else (tail[:, :, :-1], head[:, :, 1:])


class _Flow:
    """A preflow: what each node has too much of, its height, and what is left of every capacity;
    (layers, B, H, W) each.
    """

    def __init__(self, unary: Costs, down: Costs, right: Costs) -> None:
        layers = unary.shape[1] - 1
        slope = np.diff(unary.astype(np.float64), axis=1).swapaxes(0, 1)
        between = [down.astype(np.float64) / layers**2, right.astype(np.float64) / layers**2]
        total = np.abs(slope).sum(axis=(0, 2, 3)) + sum(
            2 * layers**2 * w.sum(axis=(1, 2)) for w in between
        )
        scale = (RESOLUTION / np.maximum(total, np.finfo(np.float64).tiny * RESOLUTION))[
            :, None, None
        ]
        cost = np.rint(slope * scale).astype(np.int32)
        self.excess, self.sink = np.maximum(-cost, 0), np.maximum(cost, 0)
        self.height = np.zeros_like(cost)
        self.links = []
        for axis, weight in enumerate(between):
            single = np.rint(weight * scale).astype(np.int32)
            for tail in range(layers):
                for head in range(layers):
                    # (d / (K-1))^2 as a sum over thresholds: once for a = b and twice for a > b,
                    # "p >= a and q < b".
                    there, back = (
                        int(tail == head) + 2 * int(a > b) for a, b in ((tail, head), (head, tail))
                    )
                    self.links.append(_Link(tail, head, axis, there * single, back * single))
        for tail in range(
            1, layers
        ):  # "label >= a + 1" without "label >= a" costs more than everything
            self.links.append(
                _Link(
                    tail, tail - 1, None, np.full_like(cost[0], _ENDLESS), np.zeros_like(cost[0])
                )
            )

    def push(self) -> None:
        """Move excess to the sink and along every arc that goes one step down."""
        drained = np.minimum(self.excess, self.sink)
        self.excess -= drained
        self.sink -= drained
        for link in self.links:
            (tail, head), (above, below) = link.ends(self.excess), link.ends(self.height)
            _push(tail, head, link.forward, link.backward, above == below + 1)
            _push(head, tail, link.backward, link.forward, below == above + 1)

    def relabel(self) -> None:
        """Raise the nodes with excess to one above their lowest open neighbour."""
        lowest = np.where(self.sink > 0, np.int32(1), np.int32(_FAR))
        self._lower(lowest, self.height, self._walls())
        np.copyto(self.height, np.maximum(self.height, lowest), where=self.excess > 0)

    def measure(self) -> None:
        """Set every height to the exact number of open arcs to the sink; _FAR where there is no
        way.
        """
        self.height = np.where(self.sink > 0, np.int32(1), np.int32(_FAR))
        walls, before = self._walls(), np.zeros_like(self.height)
        while not np.array_equal(before, self.height):
            np.copyto(before, self.height)
            self._lower(self.height, self.height, walls)

    def _walls(self) -> list[tuple[Whole, Whole]]:
        """The length of each arc: 1, or further than anything where nothing more fits through."""
        far = np.int32(_FAR)
        return [
            ((k.forward == 0) * far + np.int32(1), (k.backward == 0) * far + np.int32(1))
            for k in self.links
        ]

    def _lower(self, distance: Whole, height: Whole, walls: list[tuple[Whole, Whole]]) -> None:
        for link, (there, back) in zip(self.links, walls, strict=True):
            (tail, head), (above, below) = link.ends(distance), link.ends(height)
            np.minimum(tail, below + there, out=tail)
            np.minimum(head, above + back, out=head)

    def keep(self, chosen: NDArray[np.bool_]) -> None:
        """Go on with these samples only."""
        self.excess, self.sink, self.height = (
            x[:, chosen] for x in (self.excess, self.sink, self.height)
        )
        for link in self.links:
            link.forward, link.backward = link.forward[chosen], link.backward[chosen]


def _push(
    tail: Whole, head: Whole, open_: Whole, reverse: Whole, downhill: NDArray[np.bool_]
) -> None:
    amount = np.minimum(tail, open_)
    amount *= downhill
    tail -= amount
    head += amount
    open_ -= amount
    reverse += amount
