"""Batches, draws and hooks for the tests of the methods that act inside the network."""

import numpy as np
import torch
from torch import nn


class Recorder(nn.Module):
    """A linear classifier of images of any size that keeps those it was shown."""

    def __init__(self, classes):
        super().__init__()
        self.head = nn.LazyLinear(classes)
        self.shown = []

    def forward(self, images):
        self.shown.append(images.detach())
        return self.head(images.flatten(1))


def batch(size=6, side=16):
    return torch.randn(size, 3, side, side), torch.eye(4)[torch.arange(size) % 4]


def stage_maps(backbone, images):
    """name -> the feature map of each stage, as it leaves the stage's module."""
    maps = {}
    handles = [
        module.register_forward_hook(
            lambda _m, _i, output, name=name: maps.__setitem__(name, output)
        )
        for name, module in backbone.named_stages().items()
    ]
    backbone(images)
    for handle in handles:
        handle.remove()
    return maps


def next_input(backbone, name):
    """Record what the network goes on with after the module of a stage: what its own hooks
    returned.
    """
    seen = []
    backbone.named_stages()[name].register_forward_hook(lambda _m, _i, output: seen.append(output))
    return seen


def targets_used(loss, logits):
    """The targets that explain a soft cross-entropy: its gradient is (softmax - targets) /
    batch.
    """
    (gradient,) = torch.autograd.grad(loss, logits, retain_graph=True)
    return logits.softmax(1) - gradient * len(logits)


def labels_of(images, partner, weight):
    """Mixed targets of a batch whose sample i has the label i."""
    return weight * torch.eye(len(images)) + (1 - weight) * torch.eye(len(images))[partner]


def draws(seed):
    return np.random.default_rng(seed)
