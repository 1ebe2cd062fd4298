"""Baseline: cross-entropy on the images as they are."""

from torch import Tensor, nn

from rm.methods import Method, Mixed
from rm.schedules import StepContext


class Baseline(Method):
    """No mixing."""

    MIXES = False

    def mix(
        self, images: Tensor, targets: Tensor, step: StepContext, model: nn.Module | None = None
    ) -> Mixed:
        return Mixed(images, targets)
