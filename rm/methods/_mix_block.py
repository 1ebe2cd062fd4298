"""The mix block of AutoMix and AMix, and what is asked of its masks: pure pieces, for supervised
and contrastive training alike.

"Own" is sample i, "partner" sample j; lambda is the share of the own sample everywhere. A mask
(B, H, W) in (0, 1) says how much of each pixel is the partner's.

Source: Westlake-AI/openmixup at 37e1372 (AMix is called SAMix there); the paper's text where an
option says so.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_ACTIVATIONS: dict[str, type[nn.Module]] = {"elu": nn.ELU, "relu": nn.ReLU}


def rescaled(lam: float, k: float | None) -> float:
    """r_k(lambda) = (4/3 lambda^3 - 2 lambda^2 + (k + 1) lambda) / (k + 1/3): 0, 1/2 and 1 stay,
    what is between is pushed apart; None: lambda itself.
    """
    if k is None:
        return lam
    return (4 / 3 * lam**3 - 2 * lam**2 + (k + 1) * lam) / (k + 1 / 3)


class MixBlock(nn.Module):
    """Two feature maps and a lambda -> how much of each pixel is taken from the partner.

    P = sigmoid(up(softmax(q k^T / sqrt(c)) v)): attention between the maps' cells, on a value v of
    the partner alone. The defaults are AMix's; AutoMix's are encoding channel or none,
    attention cross, share_key, content linear, upsampling nearest.

    channels        C of the maps; queries and keys have c = C // 2
    encoding        scale: (1 + t) own and (1 + 1 - t) partner, t = r_k(lambda); channel: one more
                    channel of lambda and of 1 - lambda; none: the mask does not know lambda
    rescale         k of r_k; None: t = lambda
    gamma           fixed: 1; learned: (1 + gamma t) with a scalar in [0, 1], from 0 (the paper)
    attention       joint: queries and keys of both maps, stacked along the channels; cross:
                    queries of the own map, keys of the partner's
    share_key       one convolution for queries and keys
    content         nonlinear: 1x1 convolution, batch norm, activation, 1x1 convolution, dropout;
                    linear: one 1x1 convolution
    sigmoid_first   up(sigmoid(.)), as the paper has it; bilinear upsampling tells them apart
    """

    def __init__(
        self,
        channels: int,
        *,
        encoding: Literal["scale", "channel", "none"] = "scale",
        rescale: float | None = None,
        gamma: Literal["fixed", "learned"] = "fixed",
        attention: Literal["joint", "cross"] = "joint",
        share_key: bool = False,
        content: Literal["nonlinear", "linear"] = "nonlinear",
        activation: Literal["elu", "relu"] = "elu",
        dropout: float = 0.0,
        upsampling: Literal["bilinear", "nearest"] = "bilinear",
        sigmoid_first: bool = False,
    ) -> None:
        super().__init__()
        self.encoding, self.rescale, self.attention = encoding, rescale, attention
        self.upsampling, self.sigmoid_first = upsampling, sigmoid_first
        inner = channels // 2
        seen = channels + 1 if encoding == "channel" else channels
        compared = 2 * seen if attention == "joint" else seen
        self.query = nn.Conv2d(compared, inner, 1)
        self.key = self.query if share_key else nn.Conv2d(compared, inner, 1)
        self.value: nn.Module = nn.Conv2d(seen, 1, 1)
        if content == "nonlinear":
            self.value = nn.Sequential(
                nn.Conv2d(seen, inner, 1, bias=False),
                nn.BatchNorm2d(inner),
                _ACTIVATIONS[activation](),
                nn.Conv2d(inner, 1, 1, bias=False),
                nn.Dropout(dropout),
            )
        self.gamma = nn.Parameter(torch.zeros(())) if gamma == "learned" else None
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, own: Tensor, partner: Tensor, lam: float, size: tuple[int, int]) -> Tensor:
        """own, partner (B, C, h, w), lambda, (H, W) of the images -> partner's mask (B, H, W)."""
        batch, _, height, width = own.shape
        own, partner = self._encoded(own, lam), self._encoded(partner, 1 - lam)
        value = self.value(partner).flatten(2).transpose(1, 2)
        weights = self.attention_weights(own, partner)
        low = (weights @ value.to(weights.dtype)).view(batch, 1, height, width)
        if self.sigmoid_first:
            return self._enlarged(low.sigmoid(), size)
        return self._enlarged(low, size).sigmoid()

    def attention_weights(self, own: Tensor, partner: Tensor) -> Tensor:
        """Of the encoded maps: (B, n, n), n = h w cells; rows sum to 1. In fp32 or wider."""
        if self.attention == "joint":
            own = partner = torch.cat([own, partner], 1)
        query, key = self.query(own).flatten(2), self.key(partner).flatten(2)
        wide = torch.promote_types(query.dtype, torch.float32)
        with torch.autocast(own.device.type, enabled=False):
            scores = query.to(wide).transpose(1, 2) @ key.to(wide)
            weights: Tensor = (scores / math.sqrt(query.shape[1])).softmax(-1)
            return weights

    def clamp_gamma(self) -> None:
        """Bring a learned gamma back into [0, 1]: for after the optimizer's step."""
        if self.gamma is not None:
            with torch.no_grad():
                self.gamma.clamp_(0, 1)

    def _encoded(self, features: Tensor, share: float) -> Tensor:
        """What the map's share of the mixed image is, told to the map: (B, C, h, w) -> (B, C or
        C + 1, h, w).
        """
        if self.encoding == "none":
            return features
        if self.encoding == "channel":
            layer = features.new_full((len(features), 1, *features.shape[2:]), share)
            return torch.cat([features, layer], 1)
        factor = rescaled(share, self.rescale)
        return features * (1 + (factor if self.gamma is None else self.gamma * factor))

    def _enlarged(self, low: Tensor, size: tuple[int, int]) -> Tensor:
        # A size and no factor, so that sides which the map's do not divide are met exactly.
        align = False if self.upsampling == "bilinear" else None
        return F.interpolate(low, size=size, mode=self.upsampling, align_corners=align)[:, 0]


def mask_loss(
    mask: Tensor,
    lam: float,
    *,
    variance: Literal["released", "paper", "none"] = "none",
    mean: Literal["batch", "sample"] = "batch",
    margin: float = 0.1,
) -> Tensor:
    """max(|1 - mu - lambda| - margin, 0), mu the mean of a partner's mask (B, H, W): how far the
    mask's own share is from lambda. Scalar, maybe negative.

    variance   released: less 2 Var around that one mean, which rewards masks far from constant;
               paper: plus 2 Var per sample, as printed; none: AutoMix
    mean       of the whole batch (released), or of each sample (paper)
    """
    means = mask.mean() if mean == "batch" else mask.mean((1, 2))
    loss = F.relu((1 - means - lam).abs() - margin).mean()
    if variance == "released":
        return loss - 2 * mask.var(correction=0)
    if variance == "paper":
        return loss + 2 * mask.var((1, 2), correction=0).mean()
    return loss


def adjusted(mask: Tensor, lam: float, *, dead_zone: float = 0.0) -> Tensor:
    """A partner's mask (B, H, W) moved so that the mean of each own mask 1 - P is lambda; it stays
    in [0, 1] and keeps the order of its pixels.

    O <- O lambda / mu where the own mask's mean mu > lambda, else
    O <- 1 - (1 - O) (1 - lambda) / (1 - mu). Samples with |mu - lambda| <= dead_zone stay.
    """
    own = 1 - mask
    means = own.mean((1, 2), keepdim=True)
    lowered = own * (lam / means)
    raised = 1 - (1 - own) * ((1 - lam) / (1 - means))
    moved = torch.where(means > lam, lowered, raised)
    # Where the mean is lambda already, both may divide by zero.
    moves = (means != lam) & ((means - lam).abs() > dead_zone)
    return torch.where(moves, (1 - moved).clamp(0, 1), mask)
