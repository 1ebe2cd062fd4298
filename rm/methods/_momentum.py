"""Momentum networks: a slow copy of a network follows it after every step, and by how much."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from rm.schedules import Progress


def momentum_at(at: Progress, *, start: float, end: float, hold: float) -> float:
    """`start` for the first share `hold` of the training, then
    end - (end - start) (1 + cos(pi s / S)) / 2 for step s of S, which does not begin anew at
    `hold`: it jumps there, as in the released code.
    """
    if at.fraction < hold:
        return start
    return end - (end - start) * (1 + math.cos(math.pi * at.fraction)) / 2


@torch.no_grad()
def follow(slow: Iterable[Tensor], fast: Iterable[Tensor], momentum: float) -> None:
    """slow <- momentum slow + (1 - momentum) fast, in place, tensor by tensor."""
    slow, fast = list(slow), list(fast)
    if len(slow) != len(fast):
        raise ValueError(f"{len(slow)} tensors cannot follow {len(fast)}")
    torch._foreach_lerp_(slow, fast, 1 - momentum)
