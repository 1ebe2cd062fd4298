"""Feature CutMix: CutMix of a feature map instead of the image (Yun et al., ICCV 2019, ablation).

One permutation and one box a batch: the box of the map after one stage, drawn anew for each batch,
is replaced by the same box of the partner's map. Kept area ~ Beta(alpha, alpha); labels are
weighted with the share of the map's positions that the clipped box covers.

Source: the CutMix paper (Sec. 4.1), which mixes "at a randomly chosen layer per minibatch", as
Manifold Mixup does; which layers there are to choose from it does not say, ours are after the
first three stages. Its released code (clovaai/CutMix-PyTorch) mixes images only; this is that
code's `rand_bbox` at the map's resolution. Row of the RM paper: Table 6 (ImageNet); alpha 1 and
probability 1 are those of CutMix on ImageNet.
"""

from typing import Annotated, Literal

from torch import Tensor, nn

from rm.backbones import Backbone, FeatureHooks
from rm.methods import Method, MethodOutput, Mixed, draw_partner
from rm.ops import cut_fill, mix_targets, mixed_area, sample_box, soft_cross_entropy
from rm.schedules import StepContext

TASKS = ("classification",)
REQUIRES_FEATURES = ("stages",)
TOGETHER = {"not train.cuda_graph": "the box inside the network has another shape at each step"}
_STAGES = ("stage1", "stage2", "stage3")


class FeatureCutMix(Method):
    """alpha: parameter of the Beta distribution of the area left; stage: whose map is mixed, one
    of the three at random for each batch, or always this one; probability: of mixing a batch.
    """

    def __init__(
        self,
        *,
        alpha: Annotated[float, "alpha > 0"] = 1.0,
        stage: Literal["random", "stage1", "stage2", "stage3"] = "random",
        probability: Annotated[float, "0 <= probability <= 1"] = 1.0,
    ) -> None:
        super().__init__()
        self.alpha, self.probability = alpha, probability
        self.stages = _STAGES if stage == "random" else (stage,)

    def wrap_model(self, backbone: Backbone) -> nn.Module:
        named = backbone.named_stages()
        self.hooks = FeatureHooks({stage: named[stage] for stage in self.stages})
        return backbone

    def loss(
        self, model: nn.Module, images: Tensor, targets: Tensor, step: StepContext
    ) -> MethodOutput:
        generator = step.generator
        area = 0.0
        partner = draw_partner(images, generator)
        chosen = self.stages[int(generator.integers(len(self.stages)))]

        def mixed(stage: str, features: Tensor) -> Tensor:
            nonlocal area
            if stage != chosen:
                return features
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
