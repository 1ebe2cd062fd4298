"""Where a training stands, and learning-rate schedules by it: a public function here is a name
that a spec can give under `schedule`.

Each maps a `Progress` to the factor on the optimizer's lr for the step that comes. Those of the
released code look at the epoch alone, so that a whole epoch has one rate; others may look at
`fraction`, `steps_done` or `total_steps`.
"""

import math
from typing import Annotated, NamedTuple

import numpy as np
from torch import Tensor


class Progress(NamedTuple):
    """What lies behind a training before a step.

    epoch   from 1
    step    of that epoch, from 0
    """

    epoch: int = 1
    epochs: int = 1
    step: int = 0
    steps_per_epoch: int = 1

    @property
    def steps_done(self) -> int:
        """Steps of the whole training before this one."""
        return (self.epoch - 1) * self.steps_per_epoch + self.step

    @property
    def total_steps(self) -> int:
        return self.epochs * self.steps_per_epoch

    @property
    def fraction(self) -> float:
        """0 before the first step, just below 1 before the last one."""
        return self.steps_done / self.total_steps


class StepContext(NamedTuple):
    """What a task and a method are told about a step.

    generator   of this epoch and of nothing else, so that a resumed run draws the same
    position    how far the training is
    groups      parts of this process's batch that are treated as if a device each had them
    places      which pictures of the training split the batch shows, (B,), where a method asked
    """

    generator: np.random.Generator
    position: Progress = Progress()
    groups: int = 1
    places: Tensor | None = None

    @property
    def epoch(self) -> int:
        """From 1."""
        return self.position.epoch

    @property
    def step(self) -> int:
        """Of the whole training, from 0."""
        return self.position.steps_done

    @property
    def progress(self) -> float:
        """Share of the training that lies behind, in [0, 1)."""
        return self.position.fraction


def cosine(at: Progress, *, warmup_epochs: Annotated[int, "warmup_epochs >= 0"] = 0) -> float:
    """(1 + cos(pi (e-1) / T)) / 2 with no warmup offset, after a linear warmup e / (w+1)."""
    return _warmup(at.epoch, warmup_epochs) or 0.5 * (
        1 + math.cos(math.pi * (at.epoch - 1) / at.epochs)
    )


def cosine_floor(
    at: Progress,
    *,
    floor: Annotated[float, "0 <= floor <= 1"],
    warmup_epochs: Annotated[int, "warmup_epochs >= 0"] = 0,
    warmup_start: Annotated[float | None, "0 <= warmup_start <= 1"] = None,
) -> float:
    """The cosine from 1 to `floor` instead of 0: floor + (1 - floor) (1 + cos(pi (e-1) / T)) / 2,
    after a linear warmup e / (w+1).

    warmup_start   timm's warmup instead, from this share of lr: s + (1 - s) (e-1) / w. So PVTv2 is
                   trained; DeiT's loop, on which its own builds, has each rate an epoch late
    """
    if warmup_start is not None and at.epoch <= warmup_epochs:
        return warmup_start + (1 - warmup_start) * (at.epoch - 1) / warmup_epochs
    return _warmup(at.epoch, warmup_epochs) or floor + (1 - floor) * cosine(at)


def step(
    at: Progress,
    *,
    milestones: Annotated[list[int], "all(0 < m for m in milestones)"],
    gamma: Annotated[float, "0 < gamma <= 1"] = 0.1,
    warmup_epochs: Annotated[int, "warmup_epochs >= 0"] = 0,
    warmup_steps: Annotated[int, "warmup_steps >= 0"] = 0,
    warmup_factor: Annotated[float, "0 <= warmup_factor <= 1"] = 0.001,
) -> float:
    """gamma for each milestone behind us: a milestone of 150 acts from the 151st epoch on (seen in
    the released curves).

    warmup_steps   beside it a linear warmup by steps, from warmup_factor to 1, as mmdet 2 has it:
                   1 - (1 - k / steps) (1 - factor) for k = 0, 1, ... (seen in the released logs)
    """
    decay = gamma ** sum(at.epoch > milestone for milestone in milestones)
    if at.steps_done < warmup_steps:
        decay *= 1 - (1 - at.steps_done / warmup_steps) * (1 - warmup_factor)
    return _warmup(at.epoch, warmup_epochs) or decay


def poly(at: Progress, *, power: Annotated[float, "power > 0"] = 0.9) -> float:
    """(1 - k / K)^power for the steps k = 0, 1, ... of K: to 0, and by step, as the released logs
    of the segmentation networks have it.
    """
    return math.pow(1 - at.fraction, power)


def constant(at: Progress, *, warmup_epochs: Annotated[int, "warmup_epochs >= 0"] = 0) -> float:
    """1 after the warmup."""
    return _warmup(at.epoch, warmup_epochs) or 1.0


def _warmup(epoch: int, warmup_epochs: int) -> float:
    """e / (w+1) for e = 1..w, 0 afterwards."""
    return epoch / (warmup_epochs + 1) if epoch <= warmup_epochs else 0.0
