"""Batch norm over groups of the batch, as each device of a data-parallel run sees only its
share.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GroupedBatchNorm2d(nn.BatchNorm2d):
    """Normalises each 1/groups of the batch by its own statistics; the running ones are those of
    the first, device 0.

    Parameters and state dict are those of nn.BatchNorm2d; evaluation is too.
    """

    groups: int = 1

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or self.groups == 1:
            return super().forward(input)
        first, *others = input.chunk(self.groups)
        parts = [super().forward(first)]
        parts += [
            F.batch_norm(part, None, None, self.weight, self.bias, True, 0.0, self.eps)
            for part in others
        ]
        return torch.cat(parts)


def group_batch_norm(model: nn.Module, groups: int) -> None:
    """Make every nn.BatchNorm2d of a model work on `groups` groups, in place."""
    if groups == 1:
        return
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = GroupedBatchNorm2d
            module.groups = groups  # type: ignore[assignment]
