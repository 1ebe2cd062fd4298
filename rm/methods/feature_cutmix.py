"""Feature CutMix: CutMix of a feature map instead of the image (Yun et al., ICCV 2019, ablation).

One permutation and one box a batch: the box of the map after `stage` is replaced by the same box
of the partner's map. Kept area ~ Beta(alpha, alpha); labels are weighted with the share of the
map's positions that the clipped box covers.

Source: the CutMix paper's ablation. Its released code (clovaai/CutMix-PyTorch) mixes images only;
this is that code's `rand_bbox` at the map's resolution, and the depth, after the first stage, is
our choice. Row of the RM paper: Table 6 (ImageNet), which states no hyper-parameters; alpha 1 and
probability 1 are those of CutMix on ImageNet.
"""

from typing import Annotated, Literal

from torch import Tensor, nn

from rm.backbones import Backbone, FeatureHooks
from rm.methods import Method, MethodOutput, Mixed, draw_partner
from rm.ops import cut_fill, mix_targets, mixed_area, sample_box, soft_cross_entropy
from rm.schedules import StepContext

REQUIRES_FEATURES = ("stages",)


class FeatureCutMix(Method):
    """alpha: parameter of the Beta distribution of the area left; stage: whose map is mixed;
    probability: of mixing a batch.
    """

    def __init__(
        self,
        *,
        alpha: Annotated[float, "alpha > 0"] = 1.0,
        stage: Literal["stage1", "stage2", "stage3"] = "stage1",
        probability: Annotated[float, "0 <= probability <= 1"] = 1.0,
    ) -> None:
        super().__init__()
        self.alpha, self.stage, self.probability = alpha, stage, probability

    def wrap_model(self, backbone: Backbone) -> nn.Module:
        self.hooks = FeatureHooks({self.stage: backbone.named_stages()[self.stage]})
        return backbone

    def loss(
        self, model: nn.Module, images: Tensor, targets: Tensor, step: StepContext
    ) -> MethodOutput:
        generator = step.generator
        area = 0.0
        partner = draw_partner(images, generator)

        def mixed(_: str, features: Tensor) -> Tensor:
            nonlocal area
            size = (features.shape[-2], features.shape[-1])  # known only here
            box = sample_box(size, 1 - float(generator.beta(self.alpha, self.alpha)), generator)
            area = mixed_area(box, size)
            return cut_fill(features, features[partner], box)

        if generator.random() < self.probability:
            with self.hooks.active(mixed):
                logits = model(images)
        else:
            logits = model(images)
        targets = mix_targets(targets, targets[partner], area)
        shown = Mixed(images, targets, partner, area)
        return MethodOutput(soft_cross_entropy(logits, targets), logits, shown, {"area": area})
