"""What AutoMix, AMix and their contrastive kin are set to, and what is asked of their masks."""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from rm.methods._block_teacher import LABELS, Lesson
from rm.methods._mix_block import mask_loss
from rm.schedules import Progress


class MaskLoss(NamedTuple):
    """What is asked of the masks themselves, with what weight; decay cosine: it falls to 0 over
    the steps.
    """

    variance: Literal["released", "paper", "none"]
    mean: Literal["batch", "sample"]
    weight: float
    decay: Literal["constant", "cosine"]

    def weight_at(self, at: Progress) -> float:
        """beta of a step."""
        if self.decay == "constant":
            return self.weight
        return self.weight * (1 + math.cos(math.pi * at.fraction)) / 2

    def of(self, mask: Tensor, lam: float, groups: int) -> Tensor:
        """The mean over the parts of the batch, each with its own mean and variance."""
        parts = _parts(mask, groups)
        return torch.stack(
            [mask_loss(part, lam, variance=self.variance, mean=self.mean) for part in parts]
        ).mean()


class MaskTerms(NamedTuple):
    """Which variance and mean the mask loss has, and whose lambda masks are adjusted to."""

    variance: Literal["released", "paper", "none"]
    mean: Literal["batch", "sample"] = "batch"
    adjust_to: Literal["backbone", "block"] = "backbone"


class Adjusting(NamedTuple):
    """How often the backbone's masks are moved, and to whose lambda."""

    probability: float
    to: Literal["backbone", "block"]


class Momentum(NamedTuple):
    """Of the network k: at the start of the training and for how much of it, and at its end."""

    start: float
    end: float
    hold: float


class BlockRate(NamedTuple):
    """The block's learning rate: a factor on the trial's, and the floor of its own cosine."""

    factor: float
    floor: float | None


@dataclass(frozen=True)
class Settings:
    """What the two methods have in common; `AMix` says what each option is."""

    alpha: float
    margin: float
    adjusting: Adjusting
    mask_loss: MaskLoss
    momentum: Momentum
    block_rate: BlockRate
    fixed_points: bool
    head: str
    stage: int
    lesson: Lesson = LABELS


def _parts(mask: Tensor, groups: int) -> list[Tensor]:
    return [part for part in mask.tensor_split(groups) if len(part)]


def grouped_variance(mask: Tensor, groups: int) -> Tensor:
    """The mean over the parts of the batch of each one's variance."""
    return torch.stack([part.var(correction=0) for part in _parts(mask, groups)]).mean()
