"""The training step that AutoMix and AMix share: a mix block that learns masks through a momentum
network, and a backbone that learns from the mixed images, in one backward pass.

Source: Westlake-AI/openmixup at 37e1372, `automix`; numbers as there where the paper says less.
"""

import functools
from collections.abc import Callable
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from rm.backbones import Backbone
from rm.methods import (
    Method,
    MethodOutput,
    Mixed,
    TrainingPictures,
    draw_partner,
    partner_in_parts,
)
from rm.methods._block_teacher import LABELS, BlockTeacher, Lesson, Pair
from rm.methods._mask_settings import (
    Adjusting,
    BlockRate,
    MaskLoss,
    MaskTerms,
    Momentum,
    Settings,
    grouped_variance,
)
from rm.methods._mix_block import MixBlock, adjusted
from rm.methods._mix_network import MixNetwork
from rm.methods._momentum import follow, momentum_at
from rm.ops import mix_targets, pair_cross_entropy, soft_cross_entropy
from rm.optimizers import ParameterGroup
from rm.schedules import StepContext, cosine_floor
from rm.trial import TrialError

_ATTEMPTS = 10


class Draw(NamedTuple):
    """One step's random numbers: lambda and partner for the block's images and the backbone's, and
    whether the backbone's mask is adjusted.
    """

    block_lam: float
    block_partner: Tensor
    lam: float
    partner: Tensor
    adjust: bool


class MaskMixing(Method):
    """Step: (1) lambdas and partners, one each a batch, for block and backbone; (2) maps of the
    momentum network k; (3) masks P = M(z, z[partner], lambda), the backbone's without gradient;
    (4) x = (1 - P) x + P x[partner]; (5) loss = CE(mix_q) + CE(one_q) + CE(mix_k) + beta L_mask:
    M learns from the last two alone, through the frozen k, and q from the first two; (6) after the
    optimizer's step k follows q. Labels keep lambda, whatever the mask's mean is.
    """

    def __init__(
        self,
        block: Callable[[int], MixBlock],
        terms: MaskTerms,
        lesson: Lesson = LABELS,
        *,
        alpha: Annotated[float, "alpha > 0"] = 2.0,
        margin: Annotated[float, "0 <= margin < 0.5"] = 0.08,
        adjust: Annotated[float, "0 <= adjust <= 1"] = 0.0,
        mask_weight: Annotated[float, "mask_weight >= 0"] = 0.1,
        mask_decay: Literal["constant", "cosine"] = "constant",
        ema_start: Annotated[float, "0 <= ema_start <= 1"] = 0.999,
        ema_end: Annotated[float, "0 <= ema_end <= 1"] = 0.999999,
        ema_hold: Annotated[float, "0 <= ema_hold <= 1"] = 0.1,
        fixed_points: bool = True,
        block_lr_factor: Annotated[float, "block_lr_factor > 0"] = 1.0,
        block_floor: Annotated[float | None, "0 <= block_floor <= 1"] = None,
        head: Literal["mix_k", "one_k", "mix_q", "one_q"] = "mix_k",
        stage: Annotated[int, "1 <= stage <= 4"] = 3,
    ) -> None:
        """What has a default is an option of both methods, explained at `AMix`."""
        super().__init__()
        self.block = block
        adjusting = Adjusting(adjust, terms.adjust_to)
        momentum = Momentum(ema_start, ema_end, ema_hold)
        loss = MaskLoss(terms.variance, terms.mean, mask_weight, mask_decay)
        rate = BlockRate(block_lr_factor, block_floor)
        self.settings = Settings(
            alpha, margin, adjusting, loss, momentum, rate, fixed_points, head, stage, lesson
        )
        self.teacher: BlockTeacher | None = None

    @property
    def needs_places(self) -> bool:
        return self.settings.lesson.pseudo_labels is not None

    def wrap_model(self, backbone: Backbone) -> nn.Module:
        return MixNetwork(backbone, self.block, head=self.settings.head, stage=self.settings.stage)

    def introduce(self, model: nn.Module, pictures: TrainingPictures) -> None:
        network, lesson = _network(model), self.settings.lesson
        if lesson.of_classifier:
            return
        count, processes = len(pictures.labels), pictures.group.count
        if count % processes:
            raise TrialError(
                f"keys are gathered from {processes} processes, which must see equally many "
                f"pictures: {count} are no multiple of it"
            )
        network.pictures, network.group = pictures.shown, pictures.group
        self.teacher = BlockTeacher(lesson, len(pictures.labels), network.channels)

    def deployed(self, model: nn.Module) -> Backbone:
        return _network(model).deployed

    def parameter_groups(self, model: nn.Module) -> list[ParameterGroup]:
        """q with the trial's learning rate, the block with its own; k has no gradients."""
        network, (factor, floor) = _network(model), self.settings.block_rate
        own = None if floor is None else functools.partial(cosine_floor, floor=floor)
        block = list(network.block.parameters())
        taught = [] if self.teacher is None else list(self.teacher.parameters())
        return [
            ParameterGroup([*network.online_parameters(), *taught]),
            ParameterGroup(block, factor, own),
        ]

    def loss(
        self, model: nn.Module, images: Tensor, targets: Tensor, step: StepContext
    ) -> MethodOutput:
        network = _network(model)
        if self.teacher is not None:
            self.teacher.start(network, step)
        draw = self.draw(images, step)
        features, pooled = network.map_and_pooled(images)
        size = (images.shape[-2], images.shape[-1])
        block_mask, mask = self.masks(network, features, draw, size)
        shown = _blended(images, draw.block_partner, block_mask)
        taught = self._judged(network, shown, pooled, targets, draw, step)
        fit = self.settings.mask_loss.of(block_mask, draw.block_lam, step.groups)
        beta = self.settings.mask_loss.weight_at(step.position)
        clean = network.logits(images, "one_q")
        mixed = Mixed(
            _blended(images, draw.partner, mask),
            mix_targets(targets, targets[draw.partner], 1 - draw.lam),
            draw.partner,
            1 - draw.lam,
        )
        losses = {
            "mix_loss": soft_cross_entropy(network.logits(mixed.images, "mix_q"), mixed.targets),
            "clean_loss": soft_cross_entropy(clean, targets),
            "block_loss": taught,
        }
        loss = losses["mix_loss"] + losses["clean_loss"] + taught + beta * fit
        logs: dict[str, Tensor | float] = {
            **{name: value.detach() for name, value in losses.items()},
            "mask_loss": fit.detach(),
            "mask_variance": grouped_variance(block_mask.detach(), step.groups),
            "area": 1 - draw.lam,
        }
        return MethodOutput(loss, clean, mixed, logs)

    def draw(self, images: Tensor, step: StepContext) -> Draw:
        """In the released order: both lambdas, the block's first; the backbone's partners; the
        block's.
        """
        generator, alpha = step.generator, self.settings.alpha
        block_lam, lam = (float(value) for value in generator.beta(alpha, alpha, size=2))
        if self.settings.fixed_points:
            partner = draw_partner(images, generator, step.groups)
            block_partner = draw_partner(images, generator, step.groups)
        else:
            partner = _draw_deranged(images, generator, step.groups, cycle=False)
            block_partner = _draw_deranged(images, generator, step.groups, cycle=True)
        probability = self.settings.adjusting.probability
        adjust = probability > 0 and generator.random() < probability
        return Draw(block_lam, block_partner, lam, partner, adjust)

    def masks(
        self, network: MixNetwork, features: Tensor, draw: Draw, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Partner's masks (B, H, W) for the block's images, with a graph, and the backbone's, from
        k's maps of the batch.

        In this order, which that of the running statistics and of dropout follows.
        """
        block_mask = network.block(features, features[draw.block_partner], draw.block_lam, size)
        with torch.no_grad():
            mask = network.block(features, features[draw.partner], draw.lam, size)
        if draw.adjust:
            # The released code adjusts to the block's lambda, though the labels have the other.
            to_block = self.settings.adjusting.to == "block"
            mask = adjusted(mask, draw.block_lam if to_block else draw.lam)
        if min(draw.lam, 1 - draw.lam) <= self.settings.margin:
            mask = torch.full_like(mask, 1 - draw.lam)
        return block_mask, mask

    def _judged(
        self,
        network: MixNetwork,
        shown: Tensor,
        pooled: Tensor,
        targets: Tensor,
        draw: Draw,
        step: StepContext,
    ) -> Tensor:
        """What the block's images are judged by."""
        lesson, lam = self.settings.lesson, draw.block_lam
        if self.teacher is not None:
            pair = Pair(lam, draw.block_partner)
            return self.teacher.loss(network.project(shown), pooled, targets, pair, step)
        if not lesson.of_classifier:
            raise RuntimeError("what judges the block's images is made by introduce()")
        logits, partner = network.logits(shown, "mix_k"), targets[draw.block_partner]
        if lesson.objective == "pbce":
            return pair_cross_entropy(logits, targets.argmax(1), partner.argmax(1), lam)
        return soft_cross_entropy(logits, mix_targets(targets, partner, 1 - lam))

    def after_step(self, model: nn.Module, step: StepContext) -> None:
        network, (start, end, hold) = _network(model), self.settings.momentum
        slow, fast = network.followed()
        follow(slow, fast, momentum_at(step.position, start=start, end=end, hold=hold))
        network.block.clamp_gamma()
        if self.teacher is not None:
            self.teacher.after_step(network, step)


def _blended(images: Tensor, partner: Tensor, mask: Tensor) -> Tensor:
    return torch.lerp(images, images[partner], mask[:, None].to(images.dtype))


def _draw_deranged(
    images: Tensor, generator: np.random.Generator, groups: int, *, cycle: bool
) -> Tensor:
    """A permutation without fixed points, if one of ten is; else a cyclic shift, or the last."""
    places = np.arange(-(-len(images) // groups))
    for _ in range(_ATTEMPTS):
        order = generator.permutation(len(places))
        if (order != places).all():
            return partner_in_parts(order, images, groups)
    return partner_in_parts(np.roll(places, -1) if cycle else order, images, groups)


def _network(model: nn.Module) -> MixNetwork:
    if not isinstance(model, MixNetwork):
        raise TypeError(f"expected the network of wrap_model(), found a {type(model).__name__}")
    return model
