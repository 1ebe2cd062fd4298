"""Manifold Mixup: Mixup of the feature maps of a layer drawn at random (Verma et al., ICML 2019).

At each step one layer of {0: the images, 1: after stage 1, 2: after stage 2}, one lambda ~
Beta(alpha, alpha) and one permutation: h = lambda h + (1-lambda) h[perm], labels alike. The
gradient flows through both.

Source: vikasverma1077/manifold_mixup, supervised/models/preresnet.py (`randint(0, 2)`, after
`layer1`, after `layer2`); its README has alpha 2.0 for CIFAR-10. One thing differs: there the loss
is the binary cross-entropy of each class's softmax output, here, as in the paper's equation and
all our methods, the soft cross-entropy. Row of the RM paper (Table 1): alpha = 1.0, the default
here; Table 6 states none, CutMix's paper, which it quotes, has 1.0.
"""

from collections.abc import Callable
from typing import Annotated

import torch
from torch import Tensor, nn

from rm.backbones import Backbone, FeatureHooks
from rm.methods import Method, Mixed, draw_partner
from rm.ops import mix_targets
from rm.schedules import StepContext

REQUIRES_FEATURES = ("stages",)
TOGETHER = {
    "not train.cuda_graph": "the layer and the weight inside the network are drawn at each step"
}
_LAYERS = ("stage1", "stage2")


class ManifoldMixup(Method):
    """alpha: parameter of the Beta distribution of the mixing weight."""

    def __init__(self, *, alpha: Annotated[float, "alpha > 0"] = 1.0) -> None:
        super().__init__()
        self.alpha = alpha

    def wrap_model(self, backbone: Backbone) -> nn.Module:
        stages = backbone.named_stages()
        self.hooks = FeatureHooks({name: stages[name] for name in _LAYERS})
        return backbone

    def show(
        self,
        model: Callable[[Tensor], Tensor],
        images: Tensor,
        targets: Tensor,
        step: StepContext,
        judge: nn.Module | None = None,
    ) -> tuple[Tensor, Mixed]:
        generator = step.generator
        area = 1 - float(generator.beta(self.alpha, self.alpha))
        partner = draw_partner(images, generator)
        layer = ("images", *_LAYERS)[int(generator.integers(3))]

        def mixed(name: str, features: Tensor) -> Tensor:
            return torch.lerp(features, features[partner], area) if name == layer else features

        with self.hooks.active(mixed):
            images = mixed("images", images)
            found = model(images)
        targets = mix_targets(targets, targets[partner], area)
        return found, Mixed(images, targets, partner, area, {"area": area})
