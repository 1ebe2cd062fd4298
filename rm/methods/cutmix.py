"""CutMix: a box of each image is replaced by the same box of another one (Yun et al., ICCV 2019).

With probability `probability` a batch is mixed: area ~ 1 - Beta(alpha, alpha), one box and one
permutation a batch; labels are weighted with the area of the clipped box, as in the official code.
"""

from typing import Annotated

import numpy as np
import torch
from torch import Tensor, nn

from rm.methods import Method
from rm.ops import cut_fill, mix_targets, mixed_area, sample_box, soft_cross_entropy


class CutMix(Method):
    """alpha: parameter of the Beta distribution of the area left (official `--beta`); probability:
    of mixing a batch.
    """

    def __init__(
        self,
        *,
        alpha: Annotated[float, "alpha > 0"] = 1.0,
        probability: Annotated[float, "0 <= probability <= 1"] = 1.0,
    ) -> None:
        super().__init__()
        self.alpha, self.probability = alpha, probability

    def loss(
        self, model: nn.Module, images: Tensor, targets: Tensor, generator: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        self.observed = {"area": 0.0}
        if generator.random() < self.probability:
            size = (images.shape[-2], images.shape[-1])
            partner = torch.from_numpy(generator.permutation(len(images))).to(
                images.device, non_blocking=True
            )
            box = sample_box(size, 1 - float(generator.beta(self.alpha, self.alpha)), generator)
            area = mixed_area(box, size)
            images = cut_fill(images, images[partner], box)
            targets = mix_targets(targets, targets[partner], area)
            self.observed = {"area": area}
        logits = model(images)
        return soft_cross_entropy(logits, targets), logits
