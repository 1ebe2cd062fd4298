"""Training methods: one file each, `rm/methods/<name>.py`, with one public class, a Method; its
keyword-only parameters are the
options a spec can set."""

from typing import Any

import numpy as np
from torch import Tensor, nn

from rm.backbones import Backbone


class Method:
    """What a training step does with a batch, from images to loss."""

    def __init__(self) -> None:
        self.observed: dict[str, Tensor | float] = {}
        """Scalars of the last step that the loop averages into the epoch's metrics; the same names
        at every step.
        """

    def network(self, backbone: Backbone) -> nn.Module:
        """The module to train: the backbone itself, unless the method needs more parameters."""
        return backbone

    def start_epoch(self) -> None:
        """Called before the first step of each epoch (not when resuming inside one)."""

    def loss(
        self, model: nn.Module, images: Tensor, targets: Tensor, generator: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """images (B, C, H, W), targets (B, K) -> scalar loss, logits (B, K)."""
        raise NotImplementedError(f"{type(self).__name__} does not define loss()")

    def state_dict(self) -> dict[str, Any]:
        """What the method carries from step to step; tensors and plain values only."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
