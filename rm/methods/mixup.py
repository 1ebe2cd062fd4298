"""Mixup: convex combinations of pairs of images and labels (Zhang et al., ICLR 2018).

One lambda ~ Beta(alpha, alpha) and one permutation a batch, as the official CIFAR code: x = l x +
(1-l) x[perm], labels alike.
"""

from typing import Annotated

import numpy as np
import torch
from torch import Tensor, nn

from rm.methods import Method
from rm.ops import mix_targets, soft_cross_entropy


class Mixup(Method):
    """alpha: parameter of the Beta distribution of the mixing weight."""

    def __init__(self, *, alpha: Annotated[float, "alpha > 0"] = 1.0) -> None:
        super().__init__()
        self.alpha = alpha

    def loss(
        self, model: nn.Module, images: Tensor, targets: Tensor, generator: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        area = 1 - float(generator.beta(self.alpha, self.alpha))
        partner = torch.from_numpy(generator.permutation(len(images))).to(
            images.device, non_blocking=True
        )
        logits = model(torch.lerp(images, images[partner], area))
        self.observed = {"area": area}
        return soft_cross_entropy(logits, mix_targets(targets, targets[partner], area)), logits
