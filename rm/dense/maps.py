"""Our backbones as OpenMMLab's heads use them: four maps, of strides 4 to 32, and no logits."""

from collections.abc import Sequence
from typing import Any, Self

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from rm.backbones import Backbone
from rm.trial import TrialError

LEVELS = 4
LAST_STAGE = "the backbone's last stage"
"""In a head's configuration, the type of a part that `Maps.take_last_stage` gives."""


class Maps(nn.Module):
    """The last maps of the four stages of a backbone that is timm's.

    frozen_stages   how many stages, and with the first one the stem, stay as they are; ResNets
    frozen_norms    whether batch norms keep their statistics
    """

    def __init__(self, backbone: Backbone, frozen_stages: int, frozen_norms: bool) -> None:
        super().__init__()
        network: Any = getattr(backbone, "network", None)
        if not hasattr(network, "forward_intermediates"):
            raise TrialError(
                f"detection and segmentation need a network with four maps; {backbone.title} is "
                "none of timm's"
            )
        self.network = network
        self.channels = [int(level["num_chs"]) for level in network.feature_info[-LEVELS:]]
        if len(self.channels) < LEVELS:
            raise TrialError(f"{backbone.title} has {len(self.channels)} maps, not {LEVELS}")
        self.frozen_norms = frozen_norms
        self.levels: list[int] | int = LEVELS
        self._title = backbone.title
        self._frozen = _first_stages(network, frozen_stages, backbone.title)
        for module in self._frozen:
            module.requires_grad_(False)
        self.train()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """images (B, 3, H, W) -> four maps (B, C, H / stride, W / stride), or the third alone
        where the last stage was taken.
        """
        maps: Sequence[Tensor] = self.network.forward_intermediates(
            images, indices=self.levels, intermediates_only=True, stop_early=True
        )
        return tuple(maps)

    def take_last_stage(self, extra_norm: bool) -> nn.Module:
        """The last stage, for regions of the third map instead of the picture: (N, C, h, w) ->
        (N, C', h / 2, w / 2); extra_norm: a batch norm behind it.
        """
        if not isinstance(getattr(self.network, "layer4", None), nn.Sequential):
            raise TrialError(f"a C4 head is for ResNets of four stages; {self._title} is none")
        stage = nn.Sequential()
        stage.add_module("layer4", self.network.layer4)
        if extra_norm:
            stage.add_module("norm", nn.BatchNorm2d(self.channels[-1]))
        self.network.layer4 = nn.Identity()
        self.levels = [LEVELS - 1]  # 0 is the stem's
        return stage

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for module in self._frozen:
            module.eval()
        if self.frozen_norms:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def init_weights(self) -> None:
        """Nothing: it has its weights, and OpenMMLab's models would draw others."""


def _first_stages(network: Any, count: int, title: str) -> list[nn.Module]:
    if not count:
        return []
    names = ["conv1", "bn1", *(f"layer{n}" for n in range(1, count + 1))]
    if not all(hasattr(network, name) for name in names):
        raise TrialError(f"frozen_stages is for ResNets of four stages; {title} is none")
    return [getattr(network, name) for name in names]
