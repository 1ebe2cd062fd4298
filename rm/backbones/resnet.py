"""CIFAR ResNets and ResNeXt: a 3x3 stem and no max-pooling, so that a 32-pixel image ends as a 4x4
map.

The networks follow the widely used weiaicunzai/pytorch-cifar100, which the authors' released code
took over: stride in the 3x3 convolution, identity shortcuts or a 1x1 convolution with batch norm,
PyTorch's default initialisation; `start: openmixup` is that of the AMix paper's code.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from rm.backbones import Backbone
from rm.backbones._start import started

FEATURES = ("stem", "stages", "residual branches")


class SubsampledConv(nn.Conv2d):
    """A strided 1x1 convolution, computed as one of stride 1 on every stride-th pixel.

    torch 2.15's own writes past its buffer in the backward pass of 2 to 7 channels (fp32,
    channels-last, a CPU with AVX2; a vector of AVX-512 has 16 channels) and corrupts the heap.
    """

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = self.stride
        return F.conv2d(x[:, :, ::rows, ::columns], self.weight)


class ResidualBlock(nn.Module):
    """ReLU(residual(x) + shortcut(x)): (B, in_channels, H, W) -> (B, out_channels, ceil(H/stride),
    ceil(W/stride)).
    """

    def __init__(
        self, residual: nn.Sequential, in_channels: int, out_channels: int, stride: int
    ) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.residual = residual
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(*_conv_norm(in_channels, out_channels, 1, stride))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.relu(self.residual(x) + self.shortcut(x))
        return out


class ResNet(Backbone):
    """Stem and stages of residual blocks; every stage but the first halves the map."""

    def __init__(
        self,
        block: Callable[[int, int, int], ResidualBlock],
        depths: Sequence[int],
        widths: Sequence[int],
        num_classes: int,
        in_channels: int,
    ) -> None:
        """block(in_channels, width, stride) builds one block; depths and widths have one entry a
        stage.
        """
        super().__init__()
        channels = widths[0]
        self.stem = nn.Sequential(*_conv_norm(in_channels, channels, 3), nn.ReLU(inplace=True))
        self.stages = nn.Sequential()
        for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            blocks = nn.Sequential()
            for index in range(depth):
                layer = block(channels, width, 2 if stage > 0 and index == 0 else 1)
                blocks.append(layer)
                channels = layer.out_channels
            self.stages.append(blocks)
        self.num_features = channels
        self.head = nn.Linear(channels, num_classes)

    def features(self, images: Tensor) -> Tensor:
        out: Tensor = self.stages(self.stem(images))
        return out

    def named_stages(self) -> dict[str, nn.Module]:
        return {
            "stem": self.stem,
            **{f"stage{number}": stage for number, stage in enumerate(self.stages, 1)},
        }

    def residual_branches(self) -> list[nn.Module]:
        return [
            block.residual for block in self.stages.modules() if isinstance(block, ResidualBlock)
        ]


def resnet8(num_classes: int, in_channels: int, *, width: int = 16) -> Backbone:
    """Smallest 6n+2 CIFAR ResNet (n = 1): stages of width, 2*width, 4*width; last map 8x8 at 32
    px.

    Source: He et al., CVPR 2016, Section 4.2; with 1x1 projection shortcuts (option B) where the
    shape changes.
    """
    return ResNet(_basic_block, (1, 1, 1), (width, 2 * width, 4 * width), num_classes, in_channels)


def resnet18(
    num_classes: int, in_channels: int, *, start: Literal["torch", "openmixup"] = "torch"
) -> Backbone:
    """CIFAR ResNet-18: last map (B, 512, 4, 4) at 32 px.

    Source: He et al., CVPR 2016; stem and shortcuts as in the released code (module docstring).
    """
    widths = (64, 128, 256, 512)
    return started(ResNet(_basic_block, (2, 2, 2, 2), widths, num_classes, in_channels), start)


def resnet34(num_classes: int, in_channels: int) -> Backbone:
    """CIFAR ResNet-34: last map (B, 512, 4, 4) at 32 px.

    Source: He et al., CVPR 2016; stem and shortcuts as in the released code (module docstring).
    """
    return ResNet(_basic_block, (3, 4, 6, 3), (64, 128, 256, 512), num_classes, in_channels)


def resnet50(
    num_classes: int, in_channels: int, *, start: Literal["torch", "openmixup"] = "torch"
) -> Backbone:
    """CIFAR ResNet-50: last map (B, 2048, 4, 4) at 32 px.

    Source: He et al., CVPR 2016; stem and shortcuts as in the released code (module docstring).
    """
    widths = (64, 128, 256, 512)
    return started(ResNet(_bottleneck, (3, 4, 6, 3), widths, num_classes, in_channels), start)


def resnext50_32x4d(
    num_classes: int, in_channels: int, *, start: Literal["torch", "openmixup"] = "torch"
) -> Backbone:
    """CIFAR ResNeXt-50 (32x4d): last map (B, 2048, 4, 4) at 32 px.

    Source: Xie et al., CVPR 2017, Fig. 3(c): only the 3x3 convolution is grouped; weiaicunzai
    groups the first 1x1 too.
    """
    widths = (64, 128, 256, 512)
    return started(ResNet(_resnext_block, (3, 4, 6, 3), widths, num_classes, in_channels), start)


def _conv_norm(
    in_channels: int, channels: int, kernel: int, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    conv = SubsampledConv if kernel == 1 and stride > 1 and in_channels < 16 else nn.Conv2d
    return [
        conv(in_channels, channels, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(channels),
    ]


def _basic_block(in_channels: int, width: int, stride: int) -> ResidualBlock:
    residual = nn.Sequential(
        *_conv_norm(in_channels, width, 3, stride),
        nn.ReLU(inplace=True),
        *_conv_norm(width, width, 3),
    )
    return ResidualBlock(residual, in_channels, width, stride)


def _bottleneck(
    in_channels: int, width: int, stride: int, groups: int = 1, inner: int | None = None
) -> ResidualBlock:
    inner = width if inner is None else inner
    residual = nn.Sequential(
        *_conv_norm(in_channels, inner, 1),
        nn.ReLU(inplace=True),
        *_conv_norm(inner, inner, 3, stride, groups),
        nn.ReLU(inplace=True),
        *_conv_norm(inner, 4 * width, 1),
    )
    return ResidualBlock(residual, in_channels, 4 * width, stride)


def _resnext_block(in_channels: int, width: int, stride: int) -> ResidualBlock:
    # 32 groups of 4 channels at width 64, twice as many channels a group at each doubling of the
    # width.
    return _bottleneck(in_channels, width, stride, groups=32, inner=2 * width)
