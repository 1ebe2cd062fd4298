"""The contrastive step of AMix-I and AMix-C: a mix block learns masks through MoCo's momentum
encoder k, and the online encoder q learns from the images that it mixes.

No configuration of them is released; what follows is the paper and the defaults of the released
class (Westlake-AI/openmixup at 37e1372), as their collated facts have it.
"""

import functools
import math
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rm.backbones import FeatureHooks
from rm.input.views import TwoViews
from rm.methods import Method, draw_partner
from rm.methods._mask_settings import MaskLoss, grouped_variance
from rm.methods._mix_block import MixBlock, adjusted
from rm.methods._mix_network import block_channels
from rm.methods._moco import Contrast, MoCo, told_apart
from rm.schedules import StepContext

DEAD_ZONE = 0.1
"""A mask whose mean is this near to lambda is not adjusted."""


@dataclass(frozen=True)
class ContrastSettings:
    """What the two methods have in common; `AMixI` says what each option is.

    objective   names of the losses of the block's images
    """

    alpha: float
    mask_loss: MaskLoss
    objective: tuple[str, ...]
    bce_weight: float
    adjust: bool
    partner_view: Literal["key", "query"]
    stage: int


class Mixture(NamedTuple):
    """A mixed batch.

    images         (B, C, H, W)
    mask           (B, H, W)      how much of each pixel is the partner's
    lam            the own image's share in the targets
    partner        (B,)
    own, other     (B, D)         keys of both
    """

    images: Tensor
    mask: Tensor
    lam: float
    partner: Tensor
    own: Tensor
    other: Tensor


class Clean(NamedTuple):
    """place       (B,)     which pictures a step shows
    projected   (B, D)   k's projections of their second views, not normalised, without a graph
    """

    place: Tensor
    projected: Tensor


class MaskContrast(Method):
    """Step: (1) keys and maps of k for both views; (2) two lambdas and two partners, for block and
    backbone; (3) masks M(z, z'[partner], lambda), the backbone's without gradient and adjusted;
    (4) loss = NCE(q, key) + l(backbone's images by q) + L_M(block's images by k, whose gradient
    flows through k into the mask) + beta L_mask, l = lambda NCE(m, own key) + (1 - lambda)
    NCE(m, partner's key).

    The partner's image is of the view whose keys are not the own one's, so that no key is of a
    view that was mixed: own image of the first view and its key of the second, partner's image of
    the second and its key of the first. Or both images are of the first and both keys of the
    second view (the paper).
    """

    def __init__(
        self,
        objective: str,
        *,
        alpha: Annotated[float, "alpha > 0"] = 2.0,
        bce_weight: Annotated[float, "bce_weight >= 0"] = 0.5,
        encoding: Literal["scale", "channel", "none"] = "scale",
        rescale: Annotated[float | None, "rescale >= 0"] = None,
        gamma: Literal["fixed", "learned"] = "fixed",
        attention: Literal["joint", "cross"] = "joint",
        share_key: bool = False,
        content: Literal["nonlinear", "linear"] = "nonlinear",
        activation: Literal["elu", "relu"] = "elu",
        dropout: Annotated[float, "0 <= dropout < 1"] = 0.0,
        upsampling: Literal["bilinear", "nearest"] = "bilinear",
        sigmoid_first: bool = False,
        variance: Literal["released", "paper", "none"] = "released",
        mean: Literal["batch", "sample"] = "batch",
        mask_weight: Annotated[float, "mask_weight >= 0"] = 0.1,
        adjust: bool = True,
        partner_view: Literal["key", "query"] = "key",
        stage: Annotated[int, "1 <= stage <= 4"] = 3,
    ) -> None:
        """objective: names of losses of the block's images, joined by ` + `; the others are
        options of every method that extends this one, explained at `AMixI`.
        """
        super().__init__()
        self.build = functools.partial(
            MixBlock,
            encoding=encoding,
            rescale=rescale,
            gamma=gamma,
            attention=attention,
            share_key=share_key,
            content=content,
            activation=activation,
            dropout=dropout,
            upsampling=upsampling,
            sigmoid_first=sigmoid_first,
        )
        loss = MaskLoss(variance, mean, mask_weight, "cosine")
        parts = tuple(objective.split(" + "))
        self.settings = ContrastSettings(
            alpha, loss, parts, bce_weight, adjust, partner_view, stage
        )

    def attach(self, network: MoCo, labels: Tensor) -> None:
        stage = f"stage{self.settings.stage}"
        self.block = self.build(block_channels(network.online, stage))
        self.hooks = FeatureHooks({stage: network.momentum.named_stages()[stage]})

    def contrast(self, network: MoCo, views: TwoViews, step: StepContext) -> Contrast:
        projected, key_map = network.projection_and_map(views.key, step, self.hooks)
        query_projected, query_map = network.projection_and_map(views.query, step, self.hooks)
        keys, query_keys = (F.normalize(each, dim=1) for each in (projected, query_projected))
        crossed = self.settings.partner_view == "key"
        theirs = (views.key, key_map, query_keys) if crossed else (views.query, query_map, keys)
        mine = views.query, query_map, keys
        generator, alpha = step.generator, self.settings.alpha
        block_lam, lam = (float(value) for value in generator.beta(alpha, alpha, size=2))
        partner = draw_partner(keys, generator, step.groups)
        block_partner = draw_partner(keys, generator, step.groups)
        taught = self.mixture(mine, theirs, block_partner, block_lam)
        with torch.no_grad():
            shown = self.mixture(mine, theirs, partner, lam, adjust=self.settings.adjust)
        clean = network.nce(network.query(views.query), keys)
        mixed = mixture_nce(network, network.query(shown.images), shown)
        block_loss = self.block_loss(network, taught, Clean(views.place, projected), step)
        fit = self.settings.mask_loss.of(taught.mask, block_lam, step.groups)
        loss = clean + mixed + block_loss + self.settings.mask_loss.weight_at(step.position) * fit
        logs: dict[str, Tensor | float] = {
            "clean_loss": clean.detach(),
            "mix_loss": mixed.detach(),
            "block_loss": block_loss.detach(),
            "mask_loss": fit.detach(),
            "mask_variance": grouped_variance(taught.mask.detach(), step.groups),
            "area": 1 - lam,
        }
        return Contrast(loss, keys, logs)

    def mixture(
        self,
        mine: tuple[Tensor, Tensor, Tensor],
        theirs: tuple[Tensor, Tensor, Tensor],
        partner: Tensor,
        lam: float,
        *,
        adjust: bool = False,
    ) -> Mixture:
        """Own and partners' images, maps and keys -> the mixed batch."""
        images, features, own = mine
        others, other_features, other = (each[partner] for each in theirs)
        size = (images.shape[-2], images.shape[-1])
        mask = self.block(features, other_features, lam, size)
        if adjust:
            mask = adjusted(mask, lam, dead_zone=DEAD_ZONE)
        mixed = torch.lerp(images, others, mask[:, None].to(images.dtype))
        return Mixture(mixed, mask, lam, partner, own, other)

    def block_loss(
        self, network: MoCo, taught: Mixture, clean: Clean, step: StepContext
    ) -> Tensor:
        """What the block's images are judged by."""
        projected = network.project(taught.images)
        found = F.normalize(projected, dim=1)
        loss = found.new_zeros(())
        if "infonce" in self.settings.objective:
            loss = loss + mixture_nce(
                network, found, taught, self.left_out(network, taught, clean)
            )
        if {"ce", "pbce"} & set(self.settings.objective):
            loss = loss + self.label_loss(projected, taught, clean)
        if "bce" in self.settings.objective:
            loss = loss + self.bce_weight(step) * pair_nce(network, found, taught)
        return loss

    def label_loss(self, projected: Tensor, taught: Mixture, clean: Clean) -> Tensor:
        """That of the block's images by labels; projected (B, D) with their graph."""
        raise NotImplementedError(f"{type(self).__name__} has no labels")

    def left_out(self, network: MoCo, taught: Mixture, clean: Clean) -> Tensor | None:
        """Which of the queue's keys are no negatives of the block's images, (B, K); None: all
        are.
        """
        return None

    def bce_weight(self, step: StepContext) -> float:
        """It falls to 0 by a cosine where something else teaches the block beside it."""
        weight = self.settings.bce_weight
        if self.settings.objective == ("bce",):
            return 1.0
        return weight * (1 + math.cos(math.pi * step.progress)) / 2

    def after_step(self, model: nn.Module, step: StepContext) -> None:
        self.block.clamp_gamma()


def mixture_nce(
    network: MoCo, found: Tensor, mixture: Mixture, left_out: Tensor | None = None
) -> Tensor:
    """lambda NCE(m, own key) + (1 - lambda) NCE(m, partner's key), the batch's mean; (B, D)."""
    lam = mixture.lam
    own, other = (network.nce(found, k, None, left_out) for k in (mixture.own, mixture.other))
    return lam * own + (1 - lam) * other


def pair_nce(network: MoCo, found: Tensor, mixture: Mixture) -> Tensor:
    """`told_apart` of found (B, D) with this network's temperature."""
    temperature = network.settings.temperature
    return told_apart(found, mixture.own, mixture.other, mixture.lam, temperature)
