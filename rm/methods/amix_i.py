"""AMix-I: AMix in contrastive pre-training, where each image is a class of its own ("Improving
discriminative visual representation learning via automatic mixup").

The block's images m are judged by lambda NCE(m, own key) + (1 - lambda) NCE(m, partner's key) and
by which of the two sources is which, -(lambda log s(d) + (1 - lambda) log s(-d)), d = (m own key -
m partner's key) / t. The step is in `rm/methods/_mask_contrast.py`, the block in `_mix_block.py`.

Source: the paper, and the released class's defaults (Westlake-AI/openmixup at 37e1372); there is
no released configuration. Two mistakes of the class are not followed: the partner's maps are
permuted twice, and `weight_mb_main` scales the backbone's loss too.
"""

import functools
from typing import Annotated, Literal

from rm.methods._mask_contrast import ContrastSettings, MaskContrast
from rm.methods._mask_mixing import MaskLoss
from rm.methods._mix_block import MixBlock

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
        alpha: Annotated[float, "alpha > 0"] = 2.0,
        objective: Literal["infonce + bce", "infonce", "bce"] = "infonce + bce",
        bce_weight: Annotated[float, "bce_weight >= 0"] = 0.5,
        encoding: Literal["scale", "channel", "none"] = "scale",
        rescale: Annotated[float | None, "rescale >= 0"] = None,
        gamma: Literal["fixed", "learned"] = "fixed",
        attention: Literal["joint", "cross"] = "joint",
        share_key: bool = False,
        content: Literal["nonlinear", "linear"] = "nonlinear",
        activation: Literal["elu", "relu"] = "elu",
        dropout: Annotated[float, "0 <= dropout < 1"] = 0.0,
        upsampling: Literal["bilinear", "nearest"] = "bilinear",
        sigmoid_first: bool = False,
        variance: Literal["released", "paper", "none"] = "released",
        mean: Literal["batch", "sample"] = "batch",
        mask_weight: Annotated[float, "mask_weight >= 0"] = 0.1,
        adjust: bool = True,
        partner_view: Literal["key", "query"] = "key",
        stage: Annotated[int, "1 <= stage <= 4"] = 3,
    ) -> None:
        block = functools.partial(
            MixBlock,
            encoding=encoding,
            rescale=rescale,
            gamma=gamma,
            attention=attention,
            share_key=share_key,
            content=content,
            activation=activation,
            dropout=dropout,
            upsampling=upsampling,
            sigmoid_first=sigmoid_first,
        )
        loss = MaskLoss(variance, mean, mask_weight, "cosine")
        parts = tuple(objective.split(" + "))
        settings = ContrastSettings(alpha, loss, parts, bce_weight, adjust, partner_view, stage)
        super().__init__(block, settings)
