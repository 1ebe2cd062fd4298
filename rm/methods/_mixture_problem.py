"""What Co-Mixup minimises, `rm/methods/comixup.py` has it as a formula, and how."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rm.methods._blends import blend_parents, distances, jumps, label_table, labels_of
from rm.methods._expansion import Costs, expand

_BLEND_GAIN = 5e-4
_NEVER = 1e6


class Weights(NamedTuple):
    """Of the objective's parts, by their official names."""

    beta: float = 0.32
    gamma: float = 1.0
    eta: float = 0.05
    tau: float = 0.83


class Problem:
    """Groups of n images to be mixed into n outputs each.

    shares   (G, n, R, R)   prior   (G, n)   compatibility   (G, n, n)
    """

    def __init__(self, shares: Costs, prior: Costs, compatibility: Costs) -> None:
        self.shares, self.prior, self.compatibility = shares, prior, compatibility
        self.groups, self.count, self.side = shares.shape[:3]
        self.cells = self.side**2

    def solve(
        self, weights: Weights, rounds: int, generator: np.random.Generator
    ) -> NDArray[np.float32]:
        """The mixtures of the least total seen: (G, outputs, images, R, R)."""
        size = (self.groups, self.count, self.side, self.side)
        labels = generator.integers(self.count, size=size)
        mixtures = np.moveaxis(np.eye(self.count)[labels], -1, 2)
        best, least = mixtures.copy(), self.total(mixtures, weights)
        before = least
        extra = np.zeros((self.groups, self.count, self.count))
        for number in range(rounds):
            for output in range(self.count):
                self._improve(mixtures, output, number > 0, extra[:, output], weights)
            now = self.total(mixtures, weights)
            better = now < least
            best[better], least = mixtures[better], np.minimum(now, least)
            if number == rounds - 2:
                extra = self._told_apart(mixtures, weights)
            if (np.abs(now - before) < 1e-6 * np.abs(before)).all():
                break
            before = now
        return best.astype(np.float32)

    def total(self, mixtures: Costs, weights: Weights) -> Costs:
        """The objective of all outputs: (G,)."""
        values = np.zeros(self.groups)
        unary = self._unary(weights)
        for output in range(self.count):
            mixture = mixtures[:, output]
            amounts = mixture.sum((2, 3))
            values += (unary * mixture).sum((1, 2, 3))
            values += (self._crowding(mixtures, output, weights) * amounts).sum(1) / 2
            for axis in (2, 3):
                values += weights.beta / self.cells * jumps(mixture, axis)
        return values

    def _unary(self, weights: Weights) -> Costs:
        prior = np.log(self.prior + 1e-8)[..., None, None]
        costs: Costs = -self.shares - weights.eta / self.cells * prior
        return costs

    def _crowding(self, mixtures: Costs, output: int, weights: Weights) -> Costs:
        """What a cell of each image costs for all that the other outputs show of it: (G, n)."""
        others = mixtures.sum(1) - mixtures[:, output]
        shown = (self.compatibility @ others.sum((2, 3))[..., None])[..., 0]
        crowded = shown > self.cells * weights.tau
        costs: Costs = 2 * weights.gamma / self.cells * shown * crowded
        return costs

    def _improve(
        self, mixtures: Costs, output: int, blends: bool, extra: Costs, weights: Weights
    ) -> None:
        """Expand one output's labels, in place; the others stay."""
        cost = (
            self._unary(weights)
            + (self._crowding(mixtures, output, weights) + extra)[..., None, None]
        )
        parents = blend_parents(mixtures[:, output], blends)
        table = label_table(self.count, parents)
        unary = np.einsum("gkn,gnyx->gkyx", table, cost)
        real = parents[..., 0] >= 0
        unary[:, self.count :] += np.where(real, -_BLEND_GAIN, _NEVER)[..., None, None]
        pairwise = weights.beta / self.cells * distances(table, parents)
        start = labels_of(mixtures[:, output], table)
        found = expand(start, unary, pairwise)
        chosen = table[np.arange(self.groups)[:, None, None], found]
        mixtures[:, output] = np.moveaxis(chosen, -1, 1)

    def _told_apart(self, mixtures: Costs, weights: Weights) -> Costs:
        """For outputs of the same two images or more: a cost of the first of these for one of
        them, and of the second for the other. (G, outputs, n).
        """
        extra = np.zeros((self.groups, self.count, self.count))
        shown = mixtures.sum((3, 4)) > 0
        for group in range(self.groups):
            seen: dict[bytes, int] = {}
            for output in range(self.count):
                images = np.flatnonzero(shown[group, output])
                twin = seen.setdefault(images.tobytes(), output)
                if len(images) > 1 and twin != output:
                    extra[group, twin, images[0]] += weights.gamma / self.cells
                    extra[group, output, images[1]] += weights.gamma / self.cells
        return extra
