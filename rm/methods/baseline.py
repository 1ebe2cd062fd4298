"""Baseline: cross-entropy on the images as they are."""

import numpy as np
from torch import Tensor, nn

from rm.methods import Method
from rm.ops import soft_cross_entropy


class Baseline(Method):
    """No mixing."""

    def loss(
        self, model: nn.Module, images: Tensor, targets: Tensor, generator: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        logits = model(images)
        return soft_cross_entropy(logits, targets), logits
