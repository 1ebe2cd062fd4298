"""Weights that a residual network may start from in place of its library's."""

from typing import Literal

from torch import nn

from rm.backbones import Backbone

Start = Literal["torch", "openmixup"]


def started(backbone: Backbone, start: Start) -> Backbone:
    """The network with the weights that `start` draws, in place; torch: as they are.

    openmixup   convolutions N(0, 2 / fan_out), batch norms 1 and 0, the last one of each residual
                branch 0 and 0, the head N(0, 0.01^2) with bias 0 (Westlake-AI/openmixup, 37e1372)
    """
    if start == "torch":
        return backbone
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
    for branch in backbone.residual_branches():
        last = [m for m in branch.modules() if isinstance(m, nn.BatchNorm2d)][-1]
        nn.init.zeros_(last.weight)
    nn.init.normal_(backbone.head.weight, std=0.01)
    nn.init.zeros_(backbone.head.bias)
    return backbone
