"""Mixup: convex combinations of pairs of images and labels (Zhang et al., ICLR 2018).

One lambda ~ Beta(alpha, alpha) and one permutation a batch, as the official CIFAR code: x = l x +
(1-l) x[perm], labels alike.
"""

from typing import Annotated

import torch
from torch import Tensor, nn

from rm.methods import Method, Mixed, draw_partner
from rm.ops import mix_targets
from rm.schedules import StepContext


class Mixup(Method):
    """alpha: parameter of the Beta distribution of the mixing weight."""

    def __init__(self, *, alpha: Annotated[float, "alpha > 0"] = 1.0) -> None:
        super().__init__()
        self.alpha = alpha

    def mix(
        self, images: Tensor, targets: Tensor, step: StepContext, model: nn.Module | None = None
    ) -> Mixed:
        area = 1 - float(step.generator.beta(self.alpha, self.alpha))
        partner = draw_partner(images, step.generator)
        return Mixed(
            torch.lerp(images, images[partner], area),
            mix_targets(targets, targets[partner], area),
            partner,
            area,
            {"area": area},
        )
