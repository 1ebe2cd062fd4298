"""CIFAR DenseNet-BC: a 3x3 stem without pooling and three transitions, so that a 32-pixel image
ends as a 4x4 map.

The networks follow weiaicunzai/pytorch-cifar100, which the authors' released code took over.
Against Huang et al., CVPR 2017: no batch norm after the stem, no ReLU in the transitions,
PyTorch's default initialisation.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rm.backbones import Backbone

FEATURES = ("stem", "stages")


class DenseLayer(nn.Module):
    """Append `growth` new channels to the input: (B, C, H, W) -> (B, C + growth, H, W)."""

    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        inner = 4 * growth
        self.branch = nn.Sequential(
            nn.BatchNorm2d(in_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(in_channels, inner, 1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, growth, 3, padding=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x, self.branch(x)), 1)


class DenseNet(Backbone):
    """Dense blocks joined by transitions that halve both the channels (reduction 0.5) and the
    map.
    """

    def __init__(
        self, depths: Sequence[int], growth: int, num_classes: int, in_channels: int
    ) -> None:
        """depths: dense layers in each block; growth: channels that each layer appends."""
        super().__init__()
        channels = 2 * growth
        self.stem = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.blocks = nn.Sequential()
        for index, depth in enumerate(depths):
            if index > 0:
                self.blocks.append(_transition(channels, channels // 2))
                channels //= 2
            self.blocks.append(
                nn.Sequential(*(DenseLayer(channels + i * growth, growth) for i in range(depth)))
            )
            channels += depth * growth
        self.final = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True))
        self.num_features = channels
        self.head = nn.Linear(channels, num_classes)

    def features(self, images: Tensor) -> Tensor:
        out: Tensor = self.final(self.blocks(self.stem(images)))
        return out

    def named_stages(self) -> dict[str, nn.Module]:
        blocks = list(self.blocks)[::2]  # between them are the transitions
        return {
            "stem": self.stem,
            **{f"stage{number}": block for number, block in enumerate(blocks, 1)},
        }


def densenet121(num_classes: int, in_channels: int) -> Backbone:
    """CIFAR DenseNet-121 (growth 32): last map (B, 1024, 4, 4) at 32 px.

    Source: Huang et al., CVPR 2017; differences as in the released code (module docstring).
    """
    return DenseNet((6, 12, 24, 16), 32, num_classes, in_channels)


def densenet161(num_classes: int, in_channels: int) -> Backbone:
    """CIFAR DenseNet-161 (growth 48): last map (B, 2208, 4, 4) at 32 px.

    Source: Huang et al., CVPR 2017; differences as in the released code (module docstring).
    """
    return DenseNet((6, 12, 36, 24), 48, num_classes, in_channels)


def _transition(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.BatchNorm2d(in_channels),
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
        nn.AvgPool2d(2, stride=2),
    )
