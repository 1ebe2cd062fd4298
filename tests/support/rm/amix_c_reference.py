"""A MoCo v2 training with AMix-C inside, written a second time from the collated facts alone:
clusters of all pictures (online deep clustering) teach the mix block and a head of their own.
"""

import copy
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tests.support.rm.amix_i_reference import ReferenceAMixI


@dataclass
class Clusters:
    """bank        (N, D) a vector of length 1 for each picture
    labels      (N,), centroids (K, D)
    head        weight (K, D) and bias (K,), trained
    every       steps between two moves of the centroids
    """

    bank: Tensor
    labels: Tensor
    centroids: Tensor
    head: tuple[Tensor, Tensor]
    every: int


class ReferenceAMixC(ReferenceAMixI):
    """No cluster may become small here: how those are dissolved is tested by itself."""

    def add_clusters(self, clusters: Clusters) -> None:
        self.clusters = clusters
        self.trained = [*self.trained, *clusters.head]
        self.velocity = [torch.zeros_like(p) for p in self.trained]

    def step(self, view_q: Tensor, view_k: Tensor, places: Tensor) -> float:
        loss = super().step(view_q, view_k, places)
        known = self.clusters
        with torch.no_grad():
            for place, key in zip(places.tolist(), self.seen, strict=True):
                moved = 0.5 * known.bank[place] + 0.5 * key
                known.bank[place] = moved / math.sqrt(float((moved**2).sum()))
                nearness = [float((known.bank[place] * c).sum()) for c in known.centroids]
                known.labels[place] = int(np.argmax(nearness))
            if self.s % known.every == 0:
                for cluster in range(len(known.centroids)):
                    members = known.bank[known.labels == cluster]
                    assert len(members) >= 2, "another seed, please"
                    total = members.sum(0)
                    known.centroids[cluster] = total / math.sqrt(float((total**2).sum()))
        return loss

    def loss_and_keys(self, view_q: Tensor, view_k: Tensor) -> tuple[Tensor, Tensor]:
        loss, keys = super().loss_and_keys(view_q, view_k)
        self.seen = keys
        return loss, keys

    def taught(
        self, x_m: Tensor, pair: tuple[Tensor, Tensor], lam: float, pi: np.ndarray, decay: float
    ) -> Tensor:
        total = super().taught(x_m, pair, lam, pi, decay)
        known = self.clusters
        weight, bias = known.head
        sizes = [float((known.labels == k).sum()) for k in range(len(bias))]
        raw = [1 / math.sqrt(max(size, 1.0)) for size in sizes]
        labels = known.labels[self.places].tolist()
        raw_clean = self.raw(self.second_view)
        raw_mixed = self.raw(x_m)
        for i, j in enumerate(pi):
            clean = torch.log_softmax(weight @ raw_clean[i].detach() + bias, 0)
            share = raw[labels[i]] / (sum(raw) / len(raw))
            total = total - share * clean[labels[i]] / len(pi)
            z = weight.detach() @ raw_mixed[i] + bias.detach()
            a, b = labels[i], labels[j]
            if "pbce" in self.objective:
                continue
            log_p = torch.log_softmax(z, 0)
            total = total - (lam * log_p[a] + (1 - lam) * log_p[b]) / len(pi)
        if "pbce" in self.objective:
            total = total + self.pbce(raw_mixed, labels, lam, pi)
        return total

    def pbce(self, raw_mixed: Tensor, labels: list[int], lam: float, pi: np.ndarray) -> Tensor:
        """Which of the two labels, over the pairs whose labels differ."""
        weight, bias = (part.detach() for part in self.clusters.head)
        pairs = [(i, labels[i], labels[j]) for i, j in enumerate(pi) if labels[i] != labels[j]]
        total = torch.zeros((), dtype=raw_mixed.dtype)
        for i, a, b in pairs:
            z = weight @ raw_mixed[i] + bias
            p = 1 / (1 + torch.exp(z[b] - z[a]))
            total = total - (lam * torch.log(p) + (1 - lam) * torch.log(1 - p)) / len(pairs)
        return total

    def raw(self, images: Tensor) -> Tensor:
        """k's projections, of any length. By a copy: its batch norms have counted these images."""
        backbone = copy.deepcopy(self.encoders.slow_backbone)
        projector = self.encoders.slow_projector
        features = backbone.features(images)
        pooled = features.flatten(2).sum(2) / features[0, 0].numel()
        found: Tensor = projector[2](torch.relu(projector[0](pooled)))
        return found
