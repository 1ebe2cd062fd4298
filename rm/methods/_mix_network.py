"""The network of AutoMix and AMix: an online and a momentum backbone with two heads each, and the
mix block that reads the momentum backbone.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from rm.backbones import Backbone, FeatureHooks
from rm.distributed import ProcessGroup
from rm.methods._mix_block import MixBlock
from rm.trial import TrialError

HEADS = ("mix_k", "one_k", "mix_q", "one_q")


class MixNetwork(nn.Module):
    """Backbones q (trained) and k (follows q), and heads `mix_q`, `one_q`, `mix_k`, `one_k` on
    their pooled features, for mixed and for clean images. Heads' weights start from N(0, 0.01^2),
    biases from 0; k starts as a copy of q.

    head    which one is deployed, and stands first in evaluation; it is its backbone's own head
    stage   whose map of k the block reads, from 1

    pictures   called: all training pictures as they are, (B, C, H, W) at a time, in order; where
               the method is told of them
    group      the processes that train together
    """

    pictures: Callable[[], Iterator[Tensor]]
    group = ProcessGroup()

    def __init__(
        self, backbone: Backbone, block: Callable[[int], MixBlock], *, head: str, stage: int
    ) -> None:
        super().__init__()
        self.primary, self.stage = head, f"stage{stage}"
        self.kind, self.side = head.split("_")
        classes, width = backbone.head.weight.shape
        self.channels = width
        self.online, self.online_other = backbone, nn.Linear(width, classes)
        for linear in (self.online.head, self.online_other):
            nn.init.normal_(linear.weight, std=0.01)
            nn.init.zeros_(linear.bias)
        self.block = block(block_channels(backbone, self.stage))
        self.momentum = backbone.twin().requires_grad_(False)
        self.momentum_other = nn.Linear(width, classes).requires_grad_(False)
        self.momentum_other.load_state_dict(self.online_other.state_dict())
        self.hooks = FeatureHooks({self.stage: self.momentum.named_stages()[self.stage]})

    @property
    def deployed(self) -> Backbone:
        return self.momentum if self.side == "k" else self.online

    def logits(self, images: Tensor, head: str) -> Tensor:
        """images (B, C, H, W) -> logits of one head (B, K)."""
        kind, side = head.split("_")
        backbone = self.online if side == "q" else self.momentum
        logits: Tensor = self._head(kind, side)(backbone.pool(backbone.features(images)))
        return logits

    def project(self, images: Tensor) -> Tensor:
        """images (B, C, H, W) -> k's pooled features (B, D), with a graph to the images."""
        return self.momentum.pool(self.momentum.features(images))

    @torch.no_grad()
    def map_and_pooled(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """images (B, C, H, W) -> the map of k's stage (B, c, h, w) and k's pooled features (B, D),
        without a graph.

        The whole backbone is run: in training its last stage takes its running statistics from
        here too.
        """
        maps: list[Tensor] = []

        def keep(_: str, features: Tensor) -> Tensor:
            maps.append(features.clone())  # what comes next may work in place
            return features

        with self.hooks.active(keep):
            pooled = self.project(images)
        return maps[-1], pooled

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """images (B, C, H, W) -> logits (B, K) of all heads, the primary one first."""
        pooled = {
            side: backbone.pool(backbone.features(images))
            for side, backbone in (("k", self.momentum), ("q", self.online))
        }
        order = (self.primary, *(head for head in HEADS if head != self.primary))
        parts = {head: head.split("_") for head in order}
        return {head: self._head(kind, side)(pooled[side]) for head, (kind, side) in parts.items()}

    def followed(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Parameters of k with its heads, and those of q that they follow, in one order."""
        slow = [*self.momentum.parameters(), *self.momentum_other.parameters()]
        return slow, list(self.online_parameters())

    def online_parameters(self) -> Iterator[nn.Parameter]:
        """All of q, with both heads."""
        yield from self.online.parameters()
        yield from self.online_other.parameters()

    def _head(self, kind: str, side: str) -> nn.Linear:
        if side == "q":
            return self.online.head if kind == self.kind else self.online_other
        return self.momentum.head if kind == self.kind else self.momentum_other


def block_channels(backbone: Backbone, stage: str) -> int:
    """Of a stage's map: tried on a copy without content, which computes nothing."""
    stages = backbone.named_stages()
    if stage not in stages:
        raise TrialError(
            f"the mix block reads {stage}, and {backbone.title} has {', '.join(stages)}"
        )
    found: list[int] = []
    with torch.device("meta"):
        shadow = backbone.twin().to("meta").eval()
        shadow.__dict__.pop("features", None)  # not the compiled ones
        shadow.named_stages()[stage].register_forward_hook(
            lambda module, inputs, output: found.append(output.shape[1])
        )
        channels = next(p for p in shadow.parameters() if p.ndim == 4).shape[1]
        shadow.features(torch.empty(2, channels, 64, 64))
    return found[0]
