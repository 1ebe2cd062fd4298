"""How a network's maps lie in memory, channels last, and how a CPU convolves them: several small
ones as one, or by minimal filtering.
"""

import math

import torch
from torch import Tensor, nn

from rm.backbones._winograd import TILE, tiles, winograd
from rm.trial import Train

_IMAGES = 16
"""Of a sheet, at most."""


def lay_out(model: nn.Module, device: torch.device, train: Train) -> nn.Module:
    """The model on a device, laid out as the options say."""
    convolutions = {
        (True, False): SheetConv2d,
        (False, True): WinogradConv2d,
        (True, True): WinogradOrSheetConv2d,
    }
    if train.sheets or train.winograd:
        use_convolutions(model, convolutions[train.sheets, train.winograd])
    layout = torch.channels_last if train.channels_last else torch.contiguous_format
    return model.to(device).to(memory_format=layout)


class SheetConv2d(nn.Conv2d):
    """A 3x3 convolution which, where maps are small, takes images side by side as one map, with a
    column of zeros behind each.

    oneDNN goes through all weights for each row of each map; where rows have a few pixels, that
    takes longer than the arithmetic. Results differ from those of nn.Conv2d by the order of sums,
    mostly in the weights' gradient alone. Parameters and state dict are the same.
    """

    def forward(self, input: Tensor) -> Tensor:
        images = math.gcd(len(input), _IMAGES)
        if images == 1 or not len(input) or not self.makes_sheets(input):
            return super().forward(input)
        count, channels, height, width = input.shape
        stride = int(self.stride[0])
        own = (width // stride + 1) * stride  # columns of an image, of which one or two are zero
        rows = nn.functional.pad(input, (0, own - width)).permute(0, 2, 3, 1)
        rows = rows.reshape(-1, images, height, own, channels).transpose(1, 2)
        sheets = rows.reshape(-1, height, images * own, channels).permute(0, 3, 1, 2)
        maps = self._conv_forward(sheets, self.weight, self.bias).permute(0, 2, 3, 1)
        high, wide = maps.shape[1], -(-width // stride)
        maps = maps.reshape(-1, high, images, own // stride, self.out_channels)[..., :wide, :]
        maps = maps.transpose(1, 2).contiguous()
        result: Tensor = maps.view(count, high, wide, self.out_channels).permute(0, 3, 1, 2)
        return result

    def makes_sheets(self, input: Tensor) -> bool:
        """Whether that takes less time, as measured on a Xeon with AMX;
        `python -m benchmarks.convolutions` shows it.
        """
        wide = -(-input.shape[3] // int(self.stride[0]))
        match _computed_in(input):
            case torch.bfloat16:
                return wide <= 8 and self.in_channels >= 64
            case torch.float32:
                return wide <= 2 and self.in_channels * self.out_channels >= 256 * 256
        return False


class WinogradConv2d(nn.Conv2d):
    """A 3x3 convolution that goes by minimal filtering (`winograd`) where that takes less time.

    Parameters and state dict are those of nn.Conv2d.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not self.filters_minimally(input):
            return super().forward(input)
        maps = winograd(input, self.weight)
        return maps if self.bias is None else maps + self.bias[:, None, None]

    def filters_minimally(self, input: Tensor) -> bool:
        """Whether that takes less time, as measured with AVX-512 and with AVX2;
        `python -m benchmarks.convolutions` shows it.
        """
        count, channels, height, width = input.shape
        down, across = tiles(height, width)
        computed, kept = TILE * down * TILE * across, height * width
        return (
            _computed_in(input) == torch.float32
            and self.stride == (1, 1)
            and min(channels, self.out_channels) >= 64
            and count * down * across >= 32
            and computed < 2 * kept
            and not torch.compiler.is_compiling()  # which writes its own loops around it: slower
        )


class WinogradOrSheetConv2d(WinogradConv2d, SheetConv2d):
    """Either, where it takes less time."""


def _computed_in(input: Tensor) -> torch.dtype | None:
    """The type in which a CPU convolves maps that are stored channels last; None elsewhere."""
    channels_last = input.is_contiguous(memory_format=torch.channels_last)
    if input.device.type != "cpu" or not channels_last:
        return None
    autocast = torch.is_autocast_enabled("cpu")
    return torch.get_autocast_dtype("cpu") if autocast else input.dtype


def use_convolutions(model: nn.Module, kind: type[nn.Conv2d]) -> None:
    """Make every plain 3x3 convolution of a model one of another kind."""
    for module in model.modules():
        if (
            type(module) is nn.Conv2d
            and module.kernel_size == (3, 3)
            and module.padding == (1, 1)
            and module.padding_mode == "zeros"
            and module.dilation == (1, 1)
            and module.groups == 1
            and module.stride in ((1, 1), (2, 2))
        ):
            module.__class__ = kind
