"""A MoCo v2 training with Mixup or CutMix inside, written a second time: slow, plain, sample by
sample, from the collated facts about paper and released code alone.

It shares nothing with `rm` but two backbones and two projectors that it is handed.
"""

import copy
import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn


@dataclass
class Facts:
    """What a trial chooses."""

    mixing: str = "none"  # mixup | cutmix
    alpha: float = 1.0
    cross_view: bool = True
    temperature: float = 0.2
    momentum: float = 0.9
    lr: float = 0.05
    weight_decay: float = 5e-4
    epochs: int = 2
    steps: int = 5


@dataclass
class Encoders:
    """f_q and f_k with their projections, and the queue, oldest keys anywhere."""

    backbone: nn.Module
    projector: nn.Module
    queue: list[Tensor]
    slow_backbone: nn.Module = field(init=False)
    slow_projector: nn.Module = field(init=False)

    def __post_init__(self) -> None:
        self.slow_backbone = copy.deepcopy(self.backbone)
        self.slow_projector = copy.deepcopy(self.projector)

    def fast(self) -> list[nn.Parameter]:
        found = [*self.backbone.parameters(), *self.projector.parameters()]
        return [p for p in found if p.requires_grad]

    def slow(self) -> list[nn.Parameter]:
        backbone = dict(self.slow_backbone.named_parameters())
        trained = [n for n, p in self.backbone.named_parameters() if p.requires_grad]
        return [*(backbone[name] for name in trained), *self.slow_projector.parameters()]


def projections(backbone: nn.Module, projector: nn.Module, images: Tensor) -> Tensor:
    """Average pool, two layers, length 1."""
    features = backbone.features(images)
    pooled = features.flatten(2).sum(2) / features[0, 0].numel()
    raw = projector[2](torch.relu(projector[0](pooled)))
    return raw / (raw**2).sum(1, keepdim=True).sqrt()


def nce(m: Tensor, key: Tensor, queue: list[Tensor], t: float) -> Tensor:
    own = torch.exp((m * key).sum() / t)
    rest = sum(torch.exp((m * n).sum() / t) for n in queue)
    return -torch.log(own / (own + rest))


class ReferenceContrast:
    """Steps over given pairs of views; random numbers are drawn anew from the training's seed."""

    def __init__(self, encoders: Encoders, facts: Facts, seed: int) -> None:
        self.encoders, self.facts, self.seed = encoders, facts, seed
        self.trained = encoders.fast()
        self.velocity = [torch.zeros_like(p) for p in self.trained]
        self.oldest = 0

    def start_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        self.draws = np.random.default_rng([self.seed, epoch, 1])

    def step(self, view_q: Tensor, view_k: Tensor, places: Tensor) -> float:
        """places: which pictures the views are of."""
        facts, encoders, self.places = self.facts, self.encoders, places
        loss, keys = self.loss_and_keys(view_q, view_k)
        self.descend(loss)
        with torch.no_grad():
            for theta_k, theta_q in zip(encoders.slow(), encoders.fast(), strict=True):
                theta_k.copy_(facts.momentum * theta_k + (1 - facts.momentum) * theta_q)
        for key in keys:
            encoders.queue[self.oldest] = key
            self.oldest = (self.oldest + 1) % len(encoders.queue)
        return float(loss.detach())

    def loss_and_keys(self, view_q: Tensor, view_k: Tensor) -> tuple[Tensor, Tensor]:
        keys = self.keys(view_k)
        loss = self.mean_nce(self.queries(view_q), [(1.0, keys)])
        if self.facts.mixing != "none":
            own_keys = keys if self.facts.cross_view else self.keys(view_q)
            images, partner, lam = self.mixed(view_q)
            pair = [(lam, own_keys), (1 - lam, own_keys[partner])]
            loss = loss + self.mean_nce(self.queries(images), pair)
        return loss, keys

    def mean_nce(self, m: Tensor, weighted: list[tuple[float, Tensor]]) -> Tensor:
        total = torch.zeros((), dtype=m.dtype)
        for i in range(len(m)):
            for weight, keys in weighted:
                own = nce(m[i], keys[i], self.encoders.queue, self.facts.temperature)
                total = total + weight * own / len(m)
        return total

    def queries(self, images: Tensor) -> Tensor:
        return projections(self.encoders.backbone, self.encoders.projector, images)

    def keys(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            return projections(self.encoders.slow_backbone, self.encoders.slow_projector, images)

    def mixed(self, images: Tensor) -> tuple[Tensor, np.ndarray, float]:
        """Mixed images, partners, and the own share: one lambda and one permutation a batch."""
        if self.facts.mixing == "mixup":
            lam = self.draws.beta(self.facts.alpha, self.facts.alpha)
            partner = self.draws.permutation(len(images))
            rows = [lam * images[i] + (1 - lam) * images[j] for i, j in enumerate(partner)]
            return torch.stack(rows), partner, lam
        self.draws.random()  # whether this batch is mixed: always
        partner = self.draws.permutation(len(images))
        side = math.sqrt(1 - self.draws.beta(self.facts.alpha, self.facts.alpha))
        height, width = images.shape[2:]
        rows, area = images.clone(), 1
        bounds = []
        for length in (height, width):
            half, centre = int(length * side) // 2, int(self.draws.integers(length))
            bounds.append((max(centre - half, 0), min(centre + half, length)))
            area *= bounds[-1][1] - bounds[-1][0]
        (top, bottom), (left, right) = bounds
        for i, j in enumerate(partner):
            rows[i, :, top:bottom, left:right] = images[j, :, top:bottom, left:right]
        return rows, partner, 1 - area / (height * width)

    def descend(self, loss: Tensor) -> None:
        """SGD with momentum 0.9; the cosine is constant within an epoch."""
        parameters = self.trained
        gradients = torch.autograd.grad(loss, parameters)
        lr = self.facts.lr * (1 + math.cos(math.pi * (self.epoch - 1) / self.facts.epochs)) / 2
        with torch.no_grad():
            for p, g, v in zip(parameters, gradients, self.velocity, strict=True):
                v.copy_(0.9 * v + g + self.facts.weight_decay * p)
                p.sub_(lr * v)
