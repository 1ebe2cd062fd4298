"""CIFAR PyramidNets (Han et al., CVPR 2017): every block is a little wider than the one before.

Widths, shortcuts and initialisation as in dyhan0920/PyramidNet-PyTorch, which CutMix's and
RecursiveMix's released code took over.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from rm.backbones import Backbone

FEATURES = ("stem", "stages", "residual branches")

_STEM_WIDTH = 16
_EXPANSION = 4


class AddIntoFirstChannels(torch.autograd.Function):
    """Add a shortcut to a wider branch as if the shortcut were padded with zero channels.

    branch    (B, C, H, W)   left unchanged
    shortcut  (B, c, H, W)   c <= C
    returns   (B, C, H, W)

    Autograd's own gradient of a sum into a slice copies the whole map several times (on a CPU, two
    to three times the time of padding); this one copies nothing, and neither direction touches a
    zero channel.
    """

    @staticmethod
    def forward(ctx: Any, branch: Tensor, shortcut: Tensor) -> Tensor:
        ctx.channels = shortcut.shape[1]
        # Not in place on `branch`: that saves a copy, but torch.compile would break its graph at
        # every block.
        out = branch.clone()
        out[:, : ctx.channels] += shortcut
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        return gradient, gradient[:, : ctx.channels]


class Bottleneck(nn.Module):
    """Pre-activation bottleneck that adds the zero-padded input to its output.

    (B, in_channels, H, W) -> (B, 4 * width, ceil(H/stride), ceil(W/stride)). No ReLU before the
    first convolution and none after the sum (Han et al., Section 3.3).
    """

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        out_channels = _EXPANSION * width
        self.branch = nn.Sequential(
            nn.BatchNorm2d(in_channels),
            nn.Conv2d(in_channels, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        # ceil_mode keeps an odd map's last row and column, as the padded convolution of the branch
        # does.
        self.shortcut = nn.AvgPool2d(2, stride=2, ceil_mode=True) if stride == 2 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = AddIntoFirstChannels.apply(self.branch(x), self.shortcut(x))
        return out


class PyramidNet(Backbone):
    """Three stages of (depth - 2) / 9 bottlenecks; the width grows linearly from 16 to 16 + alpha
    over all blocks.
    """

    def __init__(self, depth: int, alpha: int, num_classes: int, in_channels: int) -> None:
        """depth = 9n + 2, alpha: the total widening (Eq. 2 of the PyramidNet paper)."""
        super().__init__()
        if depth < 11 or depth % 9 != 2:
            raise ValueError(
                f"a bottleneck PyramidNet has depth 9n + 2 (11, 20, ..., 164, 200), not {depth}"
            )
        per_stage = (depth - 2) // 9
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, _STEM_WIDTH, 3, padding=1, bias=False),
            nn.BatchNorm2d(_STEM_WIDTH),
        )
        self.blocks = nn.Sequential()
        channels = _STEM_WIDTH
        for index in range(3 * per_stage):
            width = round(_STEM_WIDTH + alpha * (index + 1) / (3 * per_stage))
            stride = 2 if index in (per_stage, 2 * per_stage) else 1
            self.blocks.append(Bottleneck(channels, width, stride))
            channels = _EXPANSION * width
        self.final = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True))
        self.num_features = channels
        self.head = nn.Linear(channels, num_classes)
        self._initialise()

    def _initialise(self) -> None:
        """Draw k x k convolutions from N(0, 2 / (k*k*out_channels)); batch norms (1, 0) and head
        keep PyTorch's.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = math.prod(module.kernel_size) * module.out_channels
                nn.init.normal_(module.weight, 0.0, math.sqrt(2.0 / fan_out))

    def features(self, images: Tensor) -> Tensor:
        out: Tensor = self.final(self.blocks(self.stem(images)))
        return out

    def named_stages(self) -> dict[str, nn.Module]:
        length = len(self.blocks) // 3
        ends = {f"stage{number}": self.blocks[number * length - 1] for number in (1, 2, 3)}
        return {"stem": self.stem, **ends}

    def residual_branches(self) -> list[nn.Module]:
        return [block.branch for block in self.blocks if isinstance(block, Bottleneck)]


def pyramidnet200_240(num_classes: int, in_channels: int) -> Backbone:
    """PyramidNet-200 with widening 240: last map (B, 1024, 8, 8) at 32 px.

    Source: Han et al., CVPR 2017; the network of CutMix's and RecursiveMix's CIFAR-10 experiments.
    """
    return PyramidNet(200, 240, num_classes, in_channels)


def pyramidnet164_270(num_classes: int, in_channels: int) -> Backbone:
    """PyramidNet-164 with widening 270: last map (B, 1144, 8, 8) at 32 px.

    Source: Han et al., CVPR 2017; `pyramidnet_164_270` of the released code.
    """
    return PyramidNet(164, 270, num_classes, in_channels)
