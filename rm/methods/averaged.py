"""Averaged: a method whose network k, the running average of the trained q, is what counts; as in
AMix, with nothing of its masks. Not in the AMix paper: the control for its rows.

k follows q after every step by AMix's momentum; its batch norms have statistics of their own, from
one pass a step over the images that q is shown, a third of a step more. k is evaluated and
deployed; q's error is recorded as `q`.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from rm.backbones import Backbone
from rm.methods import Method, MethodOutput, Mixed
from rm.methods._momentum import follow, momentum_at
from rm.methods.baseline import Baseline
from rm.methods.mixup import Mixup
from rm.ops import soft_cross_entropy
from rm.schedules import StepContext

TASKS = ("classification",)
CONSTRAINTS = {"ema_start <= ema_end": "the momentum grows"}


class _AveragedNetwork(nn.Module):
    """q, trained, and k, which follows it; in evaluation {"k": logits, "q": logits}."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.online = backbone
        self.momentum = backbone.twin().requires_grad_(False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"k": self.momentum(images), "q": self.online(images)}


class Averaged(Method):
    """of: the method; alpha: Mixup's; ema_start, ema_end, ema_hold: as AMix's."""

    def __init__(
        self,
        *,
        of: Literal["baseline", "mixup"] = "baseline",
        alpha: Annotated[float, "alpha > 0"] = 1.0,
        ema_start: Annotated[float, "0 <= ema_start <= 1"] = 0.999,
        ema_end: Annotated[float, "0 <= ema_end <= 1"] = 0.999999,
        ema_hold: Annotated[float, "0 <= ema_hold <= 1"] = 0.1,
    ) -> None:
        super().__init__()
        self.inner: Method = Baseline() if of == "baseline" else Mixup(alpha=alpha)
        self.ema_start, self.ema_end, self.ema_hold = ema_start, ema_end, ema_hold

    def wrap_model(self, backbone: Backbone) -> nn.Module:
        return _AveragedNetwork(backbone)

    def deployed(self, model: nn.Module) -> Backbone:
        return _network(model).momentum

    def mix(
        self, images: Tensor, targets: Tensor, step: StepContext, model: nn.Module | None = None
    ) -> Mixed:
        return self.inner.mix(images, targets, step, model)

    def loss(
        self, model: nn.Module, images: Tensor, targets: Tensor, step: StepContext
    ) -> MethodOutput:
        mixed = self.mix(images, targets, step)
        shown = {"images": mixed.images, "targets": mixed.targets}
        return self.compute(model, "mixed", shown)._replace(mixed=mixed, logs=mixed.logs)

    def compute(self, model: nn.Module, kind: str, tensors: Mapping[str, Tensor]) -> MethodOutput:
        network, mixed = _network(model), Mixed(tensors["images"], tensors["targets"])
        with torch.no_grad():
            network.momentum.features(mixed.images)
        logits = network.online(mixed.images)
        return MethodOutput(soft_cross_entropy(logits, mixed.targets), logits, mixed, {})

    def after_step(self, model: nn.Module, step: StepContext) -> None:
        network = _network(model)
        momentum = momentum_at(
            step.position, start=self.ema_start, end=self.ema_end, hold=self.ema_hold
        )
        follow(network.momentum.parameters(), network.online.parameters(), momentum)


def _network(model: nn.Module) -> _AveragedNetwork:
    if not isinstance(model, _AveragedNetwork):
        raise TypeError(f"expected the network of wrap_model(), found a {type(model).__name__}")
    return model
