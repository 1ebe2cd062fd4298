"""Optimizers: a public function here is a name that a spec can give under `optimizer`.

Each takes the parameter groups of a task, each with its own factor on the learning rate. The
trainer writes the rate of every step into the groups.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from inspect import isfunction, unwrap
from typing import Annotated, Any, Literal

import torch
from torch import nn

from rm.schedules import Progress


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that share a learning rate; those that need no gradient are left out.

    lr_factor   on the trial's learning rate
    schedule    in place of the trial's
    """

    parameters: Sequence[nn.Parameter]
    lr_factor: float = 1.0
    schedule: Callable[[Progress], float] | None = None


def sgd(
    groups: Sequence[ParameterGroup],
    *,
    lr: Annotated[float, "lr > 0"],
    momentum: Annotated[float, "0 <= momentum < 1"] = 0.9,
    nesterov: bool = False,
    weight_decay: Annotated[float, "weight_decay >= 0"] = 0.0,
    decay: Literal["all", "weights"] = "all",
) -> torch.optim.Optimizer:
    """Stochastic gradient descent; `decay: weights` spares biases and norms, `all` is what the
    released code does.
    """
    optimizer = _without_dynamo(torch.optim.SGD)(
        _split(groups, weight_decay, decay),
        lr=lr,
        momentum=momentum,
        nesterov=nesterov,
        fused=True,
    )
    if momentum:
        # The same numbers as none; but torch 2.15's fused step fails where a parameter's first
        # gradient comes later than the others'.
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def adamw(
    groups: Sequence[ParameterGroup],
    *,
    lr: Annotated[float, "lr > 0"],
    beta1: Annotated[float, "0 <= beta1 < 1"] = 0.9,
    beta2: Annotated[float, "0 <= beta2 < 1"] = 0.999,
    epsilon: Annotated[float, "epsilon > 0"] = 1e-8,
    weight_decay: Annotated[float, "weight_decay >= 0"] = 0.05,
    decay: Literal["all", "weights"] = "weights",
) -> torch.optim.Optimizer:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019), as PVTv2 is trained."""
    return _without_dynamo(torch.optim.AdamW)(
        _split(groups, weight_decay, decay),
        lr=lr,
        betas=(beta1, beta2),
        eps=epsilon,
        fused=True,
    )


def _split(
    groups: Sequence[ParameterGroup], weight_decay: float, decay: str
) -> list[dict[str, Any]]:
    """Torch's groups: one with decay of each of ours, and for `decay: weights` one without, for
    biases and norms (parameters of one dimension). `part` is the number of ours.
    """
    split: list[dict[str, Any]] = []
    for part, group in enumerate(groups):
        trainable = [p for p in group.parameters if p.requires_grad]
        if decay == "all":
            split.append({"params": trainable, "weight_decay": weight_decay, "part": part})
            continue
        weights = [p for p in trainable if p.ndim > 1]
        others = [p for p in trainable if p.ndim <= 1]
        split.append({"params": weights, "weight_decay": weight_decay, "part": part})
        split.append({"params": others, "weight_decay": 0.0, "part": part})
    return split


@cache
def _without_dynamo(kind: type[torch.optim.Optimizer]) -> Callable[..., torch.optim.Optimizer]:
    """The optimizer without its import of torch._dynamo, which adds four to eight seconds to the
    start of every process (still so with torch 2.15).

    torch wraps these methods to hide them from its compiler. Only the model is ever compiled here,
    so they run unwrapped; the arithmetic is torch's own.
    """
    hidden = {
        n: m
        for n, m in vars(torch.optim.Optimizer).items()
        if isfunction(m) and hasattr(m, "__wrapped__")
    }
    plain = {name: method.__wrapped__ for name, method in hidden.items()}
    return type(kind.__name__, (kind,), {**plain, "step": torch.no_grad()(unwrap(kind.step))})
