"""MoEx: a sample keeps its normalised features and takes another one's moments (Li et al., CVPR
2021).

With probability `probability` a batch is exchanged, after the stem: h = (h - mu) / sigma *
sigma[perm] + mu[perm], mu and sigma over the channels at each position (positional normalisation);
labels y = lambda y + (1-lambda) y[perm]. Both sides get gradients.

Source: Boyiliee/MoEx, `moex` in ImageNet/moex_resnet.py (unbiased variance, epsilon 1e-5, fp32),
run with lambda 0.9 and probability 1 on ImageNet and, by CIFAR/run.sh, with lambda 0.5 and
probability 0.25 for PyramidNet-200. Rows of the RM paper: Table 6 (ImageNet; the defaults here)
and Table 1 (CIFAR-10); neither states hyper-parameters.
"""

from collections.abc import Mapping
from typing import Annotated

import torch
from torch import Tensor, nn

from rm.backbones import Backbone, FeatureHooks
from rm.graph import Prepared
from rm.methods import Method, MethodOutput, Mixed, draw_partner
from rm.ops import mix_targets, soft_cross_entropy
from rm.schedules import StepContext

TASKS = ("classification",)
REQUIRES_FEATURES = ("stem",)
_EPSILON = 1e-5


class MoEx(Method):
    """label_weight: lambda, the weight of the label of the normalised features; probability: of
    exchanging a batch.
    """

    def __init__(
        self,
        *,
        label_weight: Annotated[float, "0 <= label_weight <= 1"] = 0.9,
        probability: Annotated[float, "0 <= probability <= 1"] = 1.0,
    ) -> None:
        super().__init__()
        self.label_weight, self.probability = label_weight, probability

    def wrap_model(self, backbone: Backbone) -> nn.Module:
        self.hooks = FeatureHooks({"stem": backbone.named_stages()["stem"]})
        return backbone

    def loss(
        self, model: nn.Module, images: Tensor, targets: Tensor, step: StepContext
    ) -> MethodOutput:
        kind, tensors, logs, _ = self.prepare(model, images, targets, step)
        output = self.compute(model, kind, tensors)
        return output._replace(logs=logs)

    def prepare(
        self, model: nn.Module, images: Tensor, targets: Tensor, step: StepContext
    ) -> Prepared:
        generator, tensors = step.generator, {"images": images, "targets": targets}
        if generator.random() >= self.probability:
            return Prepared("plain", tensors, {"exchanged": 0.0}, len(images))
        partner = draw_partner(images, generator)
        tensors["targets"] = mix_targets(targets, targets[partner], 1 - self.label_weight)
        tensors["partner"] = partner
        return Prepared("exchanged", tensors, {"exchanged": 1.0}, len(images))

    def compute(self, model: nn.Module, kind: str, tensors: Mapping[str, Tensor]) -> MethodOutput:
        if kind == "plain":
            return super().compute(model, kind, tensors)
        images, targets, partner = tensors["images"], tensors["targets"], tensors["partner"]
        with self.hooks.active(lambda _, features: exchange_moments(features, partner)):
            logits = model(images)
        mixed = Mixed(images, targets, partner, 1 - self.label_weight)
        return MethodOutput(soft_cross_entropy(logits, targets), logits, mixed, {})


def exchange_moments(features: Tensor, partner: Tensor) -> Tensor:
    """Give each sample its partner's mean and deviation over the channels, position by position
    (Eq. 1-3 of Li et al.).

    features   (B, C, H, W)   C > 1; computed in fp32 or wider, returned in its own type
    partner    (B,)           sample i takes the moments of sample partner[i]
    """
    wide = features.float() if features.dtype in (torch.bfloat16, torch.float16) else features
    mean = wide.mean(dim=1, keepdim=True)
    deviation = (wide.var(dim=1, keepdim=True) + _EPSILON).sqrt()
    return ((wide - mean) * (deviation[partner] / deviation) + mean[partner]).to(features.dtype)
