"""AMix-I: AMix in contrastive pre-training, where each image is a class of its own ("Improving
discriminative visual representation learning via automatic mixup").

The block's images m are judged by lambda NCE(m, own key) + (1 - lambda) NCE(m, partner's key) and
by which of the two sources is which, -(lambda log s(d) + (1 - lambda) log s(-d)), d = (m own key -
m partner's key) / t. The step is in `rm/methods/_mask_contrast.py`, the block in `_mix_block.py`.

Source: the paper, and the released class's defaults (Westlake-AI/openmixup at 37e1372); there is
no released configuration. Two mistakes of the class are not followed: the partner's maps are
permuted twice, and `weight_mb_main` scales the backbone's loss too.
"""

from typing import Any, Literal

from rm.methods._mask_contrast import MaskContrast

TASKS = ("contrastive",)
REQUIRES_FEATURES = ("stages",)
CONSTRAINTS = {
    "content == 'nonlinear' or dropout == 0": "the linear content has no dropout",
}


class AMixI(MaskContrast):
    """Options of the block are explained at `MixBlock`, those of the mask loss at `mask_loss`.

    alpha          of the Beta distribution of both lambdas
    mask_weight    beta of the mask loss; it falls to 0 by a cosine over the training
    objective      of the block; the second part has bce_weight, which falls to 0 alike
    adjust         the backbone's masks are moved to lambda where their mean is 0.1 off
    partner_view   key: the released class; query: the paper
    stage          whose map the block reads
    """

    def __init__(
        self,
        *,
        objective: Literal["infonce + bce", "infonce", "bce"] = "infonce + bce",
        **options: Any,
    ) -> None:
        super().__init__(objective, **options)
