"""CutMix: a box of each image is replaced by the same box of another one (Yun et al., ICCV 2019).

With probability `probability` a batch is mixed: area ~ 1 - Beta(alpha, alpha), one box and one
permutation a batch; labels are weighted with the area of the clipped box, as in the official code.

With `resize` it is "CutMix with the resize strategy instead of the cut", "+ RS" of the RM paper's
Table 2: the box is filled with the whole other image, made smaller.
"""

from typing import Annotated

from torch import Tensor, nn

from rm.methods import Method, Mixed, draw_partner
from rm.ops import cut_fill, mix_targets, mixed_area, resize_fill, sample_box
from rm.schedules import StepContext


class CutMix(Method):
    """alpha: parameter of the Beta distribution of the area left (official `--beta`); probability:
    of mixing a batch; resize: fill the box with the whole image, resized (nearest), not with the
    same box of it.
    """

    def __init__(
        self,
        *,
        alpha: Annotated[float, "alpha > 0"] = 1.0,
        probability: Annotated[float, "0 <= probability <= 1"] = 1.0,
        resize: bool = False,
    ) -> None:
        super().__init__()
        self.alpha, self.probability = alpha, probability
        self._fill = resize_fill if resize else cut_fill

    def mix(
        self, images: Tensor, targets: Tensor, step: StepContext, model: nn.Module | None = None
    ) -> Mixed:
        generator = step.generator
        if generator.random() >= self.probability:
            return Mixed(images, targets, logs={"area": 0.0})
        size = (images.shape[-2], images.shape[-1])
        partner = draw_partner(images, generator)
        box = sample_box(size, 1 - float(generator.beta(self.alpha, self.alpha)), generator)
        area = mixed_area(box, size)
        return Mixed(
            self._fill(images, images[partner], box) if area else images,
            mix_targets(targets, targets[partner], area),
            partner,
            area,
            {"area": area},
        )
