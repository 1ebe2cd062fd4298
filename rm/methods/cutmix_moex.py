"""CutMix and MoEx together: a box of the image and the moments of the stem come from the same
partner (Li et al., CVPR 2021).

With probability `cutmix_probability` images and labels are mixed as in CutMix; then, with
probability `moex_probability`, moments of the mixed batch are exchanged as in MoEx. With the kept
area c, labels are y = lambda (c y + (1-c) y[perm]) + (1-lambda) (c y[perm] + (1-c) y[perm][perm]).

Source: Boyiliee/MoEx, ImageNet/main_moex_cutmix.py, run (ImageNet/README.md) with CutMix's Beta(1,
1) at probability 1 and MoEx's lambda 0.95 at probability 0.25: the defaults here. The MoEx paper's
text has lambda 0.9 on ImageNet. Row of the RM paper: Table 6, which states no hyper-parameters.
"""

from collections.abc import Mapping
from typing import Annotated

from torch import Tensor, nn

from rm.backbones import Backbone, FeatureHooks
from rm.graph import Prepared
from rm.methods import Method, MethodOutput, Mixed, draw_partner
from rm.methods.moex import exchange_moments
from rm.ops import cut_fill, mix_targets, mixed_area, sample_box, soft_cross_entropy
from rm.schedules import StepContext

TASKS = ("classification",)
REQUIRES_FEATURES = ("stem",)


class CutMixMoEx(Method):
    """alpha: parameter of CutMix's Beta distribution; label_weight: MoEx's lambda; the
    probabilities: of mixing a batch.
    """

    def __init__(
        self,
        *,
        alpha: Annotated[float, "alpha > 0"] = 1.0,
        cutmix_probability: Annotated[float, "0 <= cutmix_probability <= 1"] = 1.0,
        label_weight: Annotated[float, "0 <= label_weight <= 1"] = 0.95,
        moex_probability: Annotated[float, "0 <= moex_probability <= 1"] = 0.25,
    ) -> None:
        super().__init__()
        self.alpha, self.cutmix_probability = alpha, cutmix_probability
        self.label_weight, self.moex_probability = label_weight, moex_probability

    def wrap_model(self, backbone: Backbone) -> nn.Module:
        self.hooks = FeatureHooks({"stem": backbone.named_stages()["stem"]})
        return backbone

    def loss(
        self, model: nn.Module, images: Tensor, targets: Tensor, step: StepContext
    ) -> MethodOutput:
        kind, tensors, logs, _ = self.prepare(model, images, targets, step)
        output = self.compute(model, kind, tensors)
        return output._replace(logs=logs, mixed=output.mixed._replace(area=logs["area"]))

    def prepare(
        self, model: nn.Module, images: Tensor, targets: Tensor, step: StepContext
    ) -> Prepared:
        generator = step.generator
        partner = draw_partner(images, generator)
        logs = {"area": 0.0, "exchanged": 0.0}
        if generator.random() < self.cutmix_probability:
            size = (images.shape[-2], images.shape[-1])
            box = sample_box(size, 1 - float(generator.beta(self.alpha, self.alpha)), generator)
            area = mixed_area(box, size)
            images = cut_fill(images, images[partner], box)
            targets = mix_targets(targets, targets[partner], area)
            logs["area"] = area
        if generator.random() < self.moex_probability:
            targets = mix_targets(targets, targets[partner], 1 - self.label_weight)
            logs["exchanged"] = 1.0
        tensors = {"images": images, "targets": targets, "partner": partner}
        return Prepared("exchanged" if logs["exchanged"] else "cut", tensors, logs, len(images))

    def compute(self, model: nn.Module, kind: str, tensors: Mapping[str, Tensor]) -> MethodOutput:
        images, targets, partner = tensors["images"], tensors["targets"], tensors["partner"]
        if kind == "exchanged":
            with self.hooks.active(lambda _, features: exchange_moments(features, partner)):
                logits = model(images)
        else:
            logits = model(images)
        mixed = Mixed(images, targets, partner)
        return MethodOutput(soft_cross_entropy(logits, targets), logits, mixed, {})
