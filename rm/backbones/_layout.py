"""How a network's maps lie in memory: channels last, and on a CPU several small ones as one."""

import math

import torch
from torch import Tensor, nn

from rm.trial import Train

_IMAGES = 16
"""Of a sheet, at most."""


def lay_out(model: nn.Module, device: torch.device, train: Train) -> nn.Module:
    """The model on a device, laid out as the options say."""
    if train.sheets:
        use_sheets(model)
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
        if images == 1 or not len(input) or not self.takes(input):
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

    def takes(self, input: Tensor) -> bool:
        """As measured on a Xeon with AMX; `python -m benchmarks.sheets` shows it."""
        channels_last = input.is_contiguous(memory_format=torch.channels_last)
        if input.device.type != "cpu" or not channels_last:
            return False
        wide = -(-input.shape[3] // int(self.stride[0]))
        autocast = torch.is_autocast_enabled("cpu")
        dtype = torch.get_autocast_dtype("cpu") if autocast else input.dtype
        if dtype == torch.bfloat16:
            return wide <= 8 and self.in_channels >= 64
        weights = self.in_channels * self.out_channels
        return dtype == torch.float32 and wide <= 2 and weights >= 256 * 256


def use_sheets(model: nn.Module) -> None:
    """Make every plain 3x3 convolution of a model one that may take several images as one map."""
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
            module.__class__ = SheetConv2d
