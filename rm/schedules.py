"""Learning-rate schedules: a public function here is a name that a spec can give under `schedule`.

Each maps (epoch from 1, number of epochs) to the factor on the optimizer's lr for that whole
epoch, as the released code does.
"""

import math
from typing import Annotated


def cosine(
    epoch: int, epochs: int, *, warmup_epochs: Annotated[int, "warmup_epochs >= 0"] = 0
) -> float:
    """(1 + cos(pi (e-1) / T)) / 2 with no warmup offset, after a linear warmup e / (w+1)."""
    return _warmup(epoch, warmup_epochs) or 0.5 * (1 + math.cos(math.pi * (epoch - 1) / epochs))


def step(
    epoch: int,
    epochs: int,
    *,
    milestones: Annotated[list[int], "all(0 < m for m in milestones)"],
    gamma: Annotated[float, "0 < gamma <= 1"] = 0.1,
    warmup_epochs: Annotated[int, "warmup_epochs >= 0"] = 0,
) -> float:
    """gamma for each milestone behind us: a milestone of 150 acts from the 151st epoch on (seen in
    the released curves).
    """
    return _warmup(epoch, warmup_epochs) or gamma ** sum(
        epoch > milestone for milestone in milestones
    )


def constant(
    epoch: int, epochs: int, *, warmup_epochs: Annotated[int, "warmup_epochs >= 0"] = 0
) -> float:
    """1 after the warmup."""
    return _warmup(epoch, warmup_epochs) or 1.0


def _warmup(epoch: int, warmup_epochs: int) -> float:
    """e / (w+1) for e = 1..w, 0 afterwards."""
    return epoch / (warmup_epochs + 1) if epoch <= warmup_epochs else 0.0
