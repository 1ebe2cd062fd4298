"""Optimizers: a public function here is a name that a spec can give under `optimizer`."""

from collections.abc import Callable
from functools import cache
from inspect import isfunction, unwrap
from typing import Annotated, Literal

import torch
from torch import nn


def sgd(
    model: nn.Module,
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
    groups = _groups(model, weight_decay, decay)
    return _light(torch.optim.SGD)(groups, lr=lr, momentum=momentum, nesterov=nesterov, fused=True)


def adamw(
    model: nn.Module,
    *,
    lr: Annotated[float, "lr > 0"],
    beta1: Annotated[float, "0 <= beta1 < 1"] = 0.9,
    beta2: Annotated[float, "0 <= beta2 < 1"] = 0.999,
    epsilon: Annotated[float, "epsilon > 0"] = 1e-8,
    weight_decay: Annotated[float, "weight_decay >= 0"] = 0.05,
    decay: Literal["all", "weights"] = "weights",
) -> torch.optim.Optimizer:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019), as PVTv2 is trained."""
    groups = _groups(model, weight_decay, decay)
    return _light(torch.optim.AdamW)(groups, lr=lr, betas=(beta1, beta2), eps=epsilon, fused=True)


def _groups(model: nn.Module, weight_decay: float, decay: str) -> list[dict[str, object]]:
    """One group with decay, and for `decay: weights` one without, for biases and norms (parameters
    of one dimension).
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    if decay == "all":
        return [{"params": parameters, "weight_decay": weight_decay}]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


@cache
def _light(kind: type[torch.optim.Optimizer]) -> Callable[..., torch.optim.Optimizer]:
    """The optimizer without its import of torch._dynamo, which would add four seconds to the first
    step of every process.

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
