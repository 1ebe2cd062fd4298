"""Stochastic depth: residual branches are left out at random, deep ones more often (Huang et al.,
ECCV 2016).

At each step branch l of L survives for the whole batch with probability p_l = 1 - l/L (1 - p_L),
the linear decay rule: x_l = shortcut(x) + b_l / p_l * branch(x), b_l ~ Bernoulli(p_l).

Source: yueatsprograms/Stochastic_Depth (`main.lua`, `ResidualDrop.lua`): one gate a branch and
batch, not one a sample. There the branch is scaled by p_l when evaluating; here by 1/p_l when it
survives in training, so that evaluation is the plain network. There a branch left out is not
computed; here it is, without a gradient, and its batch norms see the batch. Rows of the RM paper:
Tables 1 and 6, quoted from CutMix's paper, whose drop rate of 0.25 is p_L = 0.75; the default
here, 0.5, is that of the stochastic depth paper.
"""

from collections.abc import Mapping
from typing import Annotated

import numpy as np
import torch
from torch import Tensor, nn

from rm.backbones import Backbone, FeatureHooks
from rm.graph import Prepared
from rm.methods import Method, MethodOutput, Mixed
from rm.ops import soft_cross_entropy
from rm.schedules import StepContext

TASKS = ("classification",)
REQUIRES_FEATURES = ("residual branches",)


class StochasticDepth(Method):
    """last_survival: p_L, the probability that the last branch survives; the first one's is nearly
    1.
    """

    ZERO_GRADIENTS = True  # so that weight decay and momentum go on in branches left out

    def __init__(self, *, last_survival: Annotated[float, "0 < last_survival <= 1"] = 0.5) -> None:
        super().__init__()
        self.last_survival = last_survival

    def wrap_model(self, backbone: Backbone) -> nn.Module:
        branches = backbone.residual_branches()
        depths = np.arange(1, len(branches) + 1) / len(branches)
        self.survival = 1 - depths * (1 - self.last_survival)
        self.hooks = FeatureHooks({str(index): branch for index, branch in enumerate(branches)})
        return backbone

    def loss(
        self, model: nn.Module, images: Tensor, targets: Tensor, step: StepContext
    ) -> MethodOutput:
        generator = step.generator
        survives = generator.random(len(self.survival)) < self.survival

        def gated(index: str, branch: Tensor) -> Tensor:
            if not survives[int(index)]:
                return torch.zeros_like(branch)
            return branch / float(self.survival[int(index)])

        with self.hooks.active(gated):
            logits = model(images)
        return MethodOutput(
            soft_cross_entropy(logits, targets),
            logits,
            Mixed(images, targets),
            {"survived": float(survives.mean())},
        )

    def prepare(
        self, model: nn.Module, images: Tensor, targets: Tensor, step: StepContext
    ) -> Prepared:
        survives = step.generator.random(len(self.survival)) < self.survival
        gates = torch.from_numpy(survives).to(images.device, non_blocking=True)
        tensors = {"images": images, "targets": targets, "gates": gates}
        return Prepared("gated", tensors, {"survived": float(survives.mean())}, len(images))

    def compute(self, model: nn.Module, kind: str, tensors: Mapping[str, Tensor]) -> MethodOutput:
        """A branch left out is zero, with gradients of zero, where `loss` has none."""

        def gated(index: str, branch: Tensor) -> Tensor:
            gate = tensors["gates"][int(index)]
            return torch.where(gate, branch / float(self.survival[int(index)]), 0.0)

        with self.hooks.active(gated):
            logits = model(tensors["images"])
        mixed = Mixed(tensors["images"], tensors["targets"])
        return MethodOutput(soft_cross_entropy(logits, mixed.targets), logits, mixed, {})
