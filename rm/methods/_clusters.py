"""Online deep clustering (Zhan et al., CVPR 2020): clusters of all pictures that follow their
features step by step, as pseudo labels.

Settings are the defaults of the released class (Westlake-AI/openmixup at 37e1372). What it takes
scikit-learn for, the split of a cluster, is `bisected`; nearness is by cosine throughout.
"""

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rm.datasets import DataError
from rm.distributed import ProcessGroup
from rm.schedules import StepContext

_CHUNK = 65536
_ROUNDS = 20


class Encoder(Protocol):
    """What clusters ask of a network: all pictures as they are, what it makes of some of them,
    (B, C, H, W) -> (B, D), and the processes that train together.
    """

    training: bool
    pictures: Callable[[], Iterator[Tensor]]
    group: ProcessGroup

    def project(self, images: Tensor) -> Tensor: ...

    def train(self, mode: bool = True) -> object: ...


class OnlineClusters(nn.Module):
    """A feature bank of N unit vectors, the cluster of each, and K centroids.

    momentum   share of the old feature that a new one leaves: normalise(0.5 old + 0.5 new)
    smallest   a cluster of fewer pictures, or of less than half an equal share, is dissolved
    """

    ALIKE = True  # in every process: features are gathered before they are moved

    bank: Tensor
    labels: Tensor
    centroids: Tensor
    started: Tensor

    def __init__(
        self, pictures: int, dim: int, count: int, *, momentum: float = 0.5, smallest: int = 20
    ) -> None:
        super().__init__()
        if pictures < count:
            raise DataError(f"{pictures} pictures cannot be put into {count} clusters")
        self.momentum = momentum
        self.smallest = min(smallest, pictures // count // 2)
        self.register_buffer("bank", torch.zeros(pictures, dim))
        self.register_buffer("labels", torch.zeros(pictures, dtype=torch.int64))
        self.register_buffer("centroids", torch.zeros(count, dim))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))

    def __len__(self) -> int:
        return len(self.centroids)

    @torch.no_grad()
    def start(self, features: Tensor, generator: np.random.Generator) -> None:
        """K-means of all pictures' features (N, D), from K of them."""
        self.bank.copy_(F.normalize(features.float(), dim=1))
        chosen = np.sort(generator.permutation(len(self.bank))[: len(self)])
        self.centroids.copy_(self.bank[torch.from_numpy(chosen).to(self.bank.device)])
        for _ in range(_ROUNDS):
            self.labels.copy_(self.nearest(self.bank))
            self._fill_empty()
            self._move_centroids()
        self.started.fill_(True)

    def nearest(self, features: Tensor) -> Tensor:
        """The cluster of each of some features (B, D): (B,)."""
        return torch.cat([(part @ self.centroids.T).argmax(1) for part in _parts(features)])

    @torch.no_grad()
    def update(self, places: Tensor, features: Tensor) -> None:
        """places (B,), new features (B, D): they move in the bank and choose their clusters."""
        fresh = F.normalize(features.to(self.bank.dtype), dim=1)
        moved = self.momentum * self.bank[places] + (1 - self.momentum) * fresh
        self.bank[places] = F.normalize(moved, dim=1)
        self.labels[places] = self.nearest(self.bank[places])

    @torch.no_grad()
    def refresh(self) -> None:
        """Dissolve small clusters among the others, split the largest in their place, and move the
        centroids.
        """
        small = self.sizes() < self.smallest
        members = small[self.labels].nonzero()[:, 0]
        if len(members) and not bool(small.all()):
            near = self.bank[members] @ self.centroids.T
            self.labels[members] = near.masked_fill(small, -torch.inf).argmax(1)
        self._fill_empty()
        self._move_centroids()

    def sizes(self) -> Tensor:
        """Pictures of each cluster, (K,)."""
        return torch.bincount(self.labels, minlength=len(self))

    def weights(self) -> Tensor:
        """For a loss, (K,): size^(-1/2), the mean is 1."""
        raw = self.sizes().clamp(min=1).to(self.bank.dtype) ** -0.5
        return raw / raw.mean()

    def _fill_empty(self) -> None:
        for empty in (self.sizes() == 0).nonzero()[:, 0].tolist():
            members = (self.labels == self.sizes().argmax()).nonzero()[:, 0]
            self.labels[members[bisected(self.bank[members])]] = empty

    def _move_centroids(self) -> None:
        sums = torch.zeros_like(self.centroids)
        # By matrices, whose sums have one order on a GPU too: every process gets the same.
        for part, labels in zip(_parts(self.bank), _parts(self.labels), strict=True):
            sums += F.one_hot(labels, len(self)).T.to(part.dtype) @ part
        self.centroids.copy_(F.normalize(sums, dim=1))


def bisected(features: Tensor, rounds: int = 10) -> Tensor:
    """2-means of unit vectors (n, D), n >= 2, from two that are far apart: which are in the second
    part (n,) bool; neither is empty, and nothing is drawn.
    """
    one = (features @ features.mean(0)).argmin()
    two = (features @ features[one]).argmin()
    centres = features[torch.stack([one, two])]
    halves = torch.arange(len(features), device=features.device) >= len(features) // 2
    second = halves
    for _ in range(rounds):
        scores = features @ centres.T
        found = scores[:, 1] > scores[:, 0]
        if not bool(found.any()) or bool(found.all()):
            return second  # equal vectors, or a round that would empty a part
        second = found
        parts = [features[~second].mean(0), features[second].mean(0)]
        centres = F.normalize(torch.stack(parts), dim=1)
    return second


class PseudoLabels(nn.Module):
    """The label of each picture that a contrastive network is shown: its cluster, or the truth.

    every   steps between two refreshments of the clusters
    truth   the data set's labels (N,), all >= 0, in place of clusters
    """

    ALIKE = True

    truth: Tensor | None

    def __init__(
        self, pictures: int, dim: int, count: int, *, every: int = 10, truth: Tensor | None = None
    ) -> None:
        super().__init__()
        self.every = every
        self.register_buffer("truth", truth, persistent=False)
        self.clusters = None if truth is not None else OnlineClusters(pictures, dim, count)
        self._seen: tuple[Tensor, Tensor] | None = None
        self._started = False

    @property
    def labels(self) -> Tensor:
        """Of all pictures, (N,)."""
        found = self.truth if self.clusters is None else self.clusters.labels
        if found is None:
            raise RuntimeError("there are neither clusters nor labels")
        return found

    def start(self, network: Encoder, step: StepContext) -> None:
        """Before the first step: k's features of all pictures, as they are."""
        if self.clusters is None or self._started:
            return
        if not bool(self.clusters.started):  # asked once: it waits for the device
            self.clusters.start(torch.cat(list(_projected(network))), step.generator)
            network.group.share_buffers(self.clusters)  # two GPUs may round differently
        self._started = True

    def note(self, places: Tensor, keys: Tensor) -> None:
        """This process's share of the step's pictures, and their new features."""
        self._seen = places, keys.detach()

    def after_step(self, network: Encoder, step: StepContext) -> None:
        """Bring what was noted into the bank."""
        if self.clusters is not None and self._seen is not None:
            places, keys = (network.group.concatenated(each) for each in self._seen)
            self.clusters.update(places, keys)
            if (step.step + 1) % self.every == 0:
                self.clusters.refresh()
        self._seen = None

    def weights(self) -> Tensor | None:
        """Of the labels in a loss; None: all alike."""
        return None if self.clusters is None else self.clusters.weights()


@torch.no_grad()
def _projected(network: Encoder) -> Iterator[Tensor]:
    """k's projections of all pictures, by running statistics."""
    training = network.training
    network.train(False)
    try:
        for images in network.pictures():
            yield network.project(images).float()
    finally:
        network.train(training)


def _parts(rows: Tensor) -> tuple[Tensor, ...]:
    return torch.split(rows, _CHUNK)
