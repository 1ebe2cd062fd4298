"""RecursiveMix training, written a second time: slow, plain, and from the paper and its
released code alone.

It shares nothing with `rm` but the network that it is handed. Where a loop over the samples says
what happens, it loops.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

Box = tuple[int, int, int, int]
"""First row, first column, row after the last, column after the last."""


@dataclass
class Settings:
    """What a trial chooses; the names are the paper's."""

    classes: int
    alpha: float
    omega: float
    lr: float
    epochs: int
    warmup_epochs: int = 0
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0
    interpolation: str = "nearest"
    transposed: bool = False


@dataclass
class Step:
    """What one training step showed."""

    loss: float
    area: float
    logits: Tensor


def learning_rate(settings: Settings, epoch: int) -> float:
    """lr*e/(w+1) in the warmup epochs e = 1..w, then the cosine that began at epoch 1."""
    if epoch <= settings.warmup_epochs:
        return settings.lr * epoch / (settings.warmup_epochs + 1)
    return settings.lr * (1 + math.cos(math.pi * (epoch - 1) / settings.epochs)) / 2


def draw_box(generator: np.random.Generator, alpha: float, height: int, width: int) -> Box:
    """A box of the image's shape around a uniform centre, clipped to the image; it may be
    empty.
    """
    area = generator.uniform(0, alpha)
    row = int(generator.integers(height))
    column = int(generator.integers(width))
    half_height = int(height * math.sqrt(area)) // 2
    half_width = int(width * math.sqrt(area)) // 2
    top, bottom = row - half_height, row + half_height
    left, right = column - half_width, column + half_width
    return max(top, 0), max(left, 0), min(bottom, height), min(right, width)


def box_area(box: Box, height: int, width: int) -> float:
    """The box's share of the image: what the clipping left of the area that was drawn."""
    top, left, bottom, right = box
    return (bottom - top) * (right - left) / (height * width)


def one_hot(labels: Tensor, classes: int, label_smoothing: float, like: Tensor) -> Tensor:
    """(B,) -> (B, K): 1 - epsilon on the label, epsilon/(K-1) on each other class."""
    hot = F.one_hot(labels, classes).to(like.dtype)
    return hot * (1 - label_smoothing) + (1 - hot) * label_smoothing / (classes - 1)


def paste(images: Tensor, previous: Tensor, box: Box, interpolation: str) -> Tensor:
    """Sample i with the whole of previous sample i, resized, in the box."""
    top, left, bottom, right = box
    size = (bottom - top, right - left)
    mixed = images.clone()
    for i in range(len(images)):
        if interpolation == "nearest":
            small = F.interpolate(previous[i : i + 1], size=size, mode="nearest")
        else:
            small = F.interpolate(
                previous[i : i + 1], size=size, mode="bilinear", align_corners=True
            )
        mixed[i, :, top:bottom, left:right] = small[0]
    return mixed


def region_features(
    features: Tensor, box: Box, height: int, width: int, transposed: bool
) -> Tensor:
    """RoIAlign of the image's box on the feature map: (B, C, h, w) -> (B, C)."""
    top, left, bottom, right = box
    scale = features.shape[2] / height
    if scale != features.shape[3] / width:
        raise ValueError(
            f"feature map {tuple(features.shape[2:])} of an image {height}x{width} has two scales"
        )
    rows = []
    for i in range(len(features)):  # roi_align reads (sample, x0, y0, x1, y1)
        rows.append([i, top, left, bottom, right] if transposed else [i, left, top, right, bottom])
    boxes = torch.tensor(rows, dtype=features.dtype)
    pooled = torchvision.ops.roi_align(
        features, boxes, (1, 1), spatial_scale=scale, sampling_ratio=-1, aligned=True
    )
    return pooled[:, :, 0, 0]


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over the samples of -sum(target * log probability)."""
    total = torch.zeros((), dtype=logits.dtype)
    for i in range(len(logits)):
        total = total - (targets[i] * torch.log_softmax(logits[i], dim=0)).sum()
    return total / len(logits)


class ReferenceTraining:
    """One training; call start_epoch before each epoch's steps.

    network       has features(images) -> (B, C, h, w) and head, a linear layer from C to the
                  classes
    second_head   reads the regions' features; None: the network's own head does
    """

    def __init__(
        self, network: nn.Module, second_head: nn.Linear | None, settings: Settings, seed: int
    ) -> None:
        self.network, self.settings, self.seed = network.train(), settings, seed
        self.second_head = network.head if second_head is None else second_head
        self.weights = list(network.parameters())
        if second_head is not None:
            self.weights += list(second_head.parameters())
        self.momentum: list[Tensor | None] = [None] * len(self.weights)

    def start_epoch(self, epoch: int) -> None:
        self.lr = learning_rate(self.settings, epoch)
        self.generator = np.random.default_rng([self.seed, epoch, 1])
        self.history: tuple[Tensor, Tensor, Tensor] | None = None

    def step(self, images: Tensor, labels: Tensor) -> Step:
        loss, area, logits = self.forward(images, labels)
        self.descend(loss)
        return Step(float(loss.detach()), area, logits)

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, float, Tensor]:
        """Loss, clipped area (0 in a plain step) and detached logits; the mixed batch becomes the
        history.
        """
        chosen = self.settings
        height, width = images.shape[2:]
        targets = one_hot(labels, chosen.classes, chosen.label_smoothing, images)
        area = 0.0
        if self.history is not None:
            old_images, old_targets, old_logits = (old[: len(images)] for old in self.history)
            box = draw_box(self.generator, chosen.alpha, height, width)
            area = box_area(box, height, width)
        if area > 0:
            images = paste(images, old_images, box, chosen.interpolation)
            targets = (1 - area) * targets + area * old_targets
        features = self.network.features(images)
        logits = self.network.head(features.mean(dim=(2, 3)))
        loss = soft_cross_entropy(logits, targets)
        if area > 0:
            region = region_features(features, box, height, width, chosen.transposed)
            before = torch.softmax(old_logits, dim=1)
            loss = loss + chosen.omega * area * soft_cross_entropy(
                self.second_head(region), before
            )
        self.history = (images, targets, logits.detach())
        return loss, area, logits.detach()

    def descend(self, loss: Tensor) -> None:
        """SGD with momentum and weight decay; a weight that took no part has gradient zero and
        goes on moving, but for one that never had any, which has none and stays.
        """
        gradients = torch.autograd.grad(loss, self.weights, allow_unused=True)
        with torch.no_grad():
            for k, (weight, gradient) in enumerate(zip(self.weights, gradients, strict=True)):
                if gradient is None and self.momentum[k] is None:
                    continue
                direction = torch.zeros_like(weight) if gradient is None else gradient
                direction = direction + self.settings.weight_decay * weight
                before = self.momentum[k]
                direction = (
                    direction if before is None else self.settings.momentum * before + direction
                )
                self.momentum[k] = direction
                weight -= self.lr * direction
