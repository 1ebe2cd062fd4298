"""AutoMix: a block learns, through a momentum network, which pixels of two images go into their
mixture (Liu et al., ECCV 2022, arXiv 2103.13027); the predecessor of AMix and a row of its tables.

Mask of the partner P = sigmoid(up(softmax(q k^T / sqrt(c)) v)), q = W z_i, k = W z_j, v = w z_j,
z the third stage's map of the momentum network; L_mask = max(|1 - mean P - lambda| - 0.1, 0). The
step is in `rm/methods/_mask_mixing.py`. As Westlake-AI/openmixup at 37e1372 has it: its CIFAR-100
and Tiny-ImageNet configurations give the block no lambda at all (`lam_channel: false`), so there
the mask does not depend on lambda.
"""

import functools
from typing import Annotated, Literal

from rm.methods._mask_mixing import (
    Adjusting,
    BlockRate,
    MaskLoss,
    MaskMixing,
    Momentum,
    Settings,
)
from rm.methods._mix_block import MixBlock

TASKS = ("classification",)
REQUIRES_FEATURES = ("stages",)
TOGETHER = {
    "not train.cuda_graph": "its mix block learns beside the network, by numbers of a step"
}
CONSTRAINTS = {"ema_start <= ema_end": "the momentum grows"}


class AutoMix(MaskMixing):
    """Options that AMix has too mean the same there.

    lam_channel   lambda as one more channel of the block's maps (ImageNet, CUB, Aircraft)
    variance      released: AMix's mask loss, as the released ResNeXt-50 files of CUB and Aircraft
    """

    def __init__(
        self,
        *,
        alpha: Annotated[float, "alpha > 0"] = 2.0,
        lam_channel: bool = False,
        variance: Literal["none", "released"] = "none",
        margin: Annotated[float, "0 <= margin < 0.5"] = 0.08,
        adjust: Annotated[float, "0 <= adjust <= 1"] = 0.0,
        mask_weight: Annotated[float, "mask_weight >= 0"] = 0.1,
        mask_decay: Literal["constant", "cosine"] = "constant",
        ema_start: Annotated[float, "0 <= ema_start <= 1"] = 0.999,
        ema_end: Annotated[float, "0 <= ema_end <= 1"] = 0.999999,
        ema_hold: Annotated[float, "0 <= ema_hold <= 1"] = 0.1,
        fixed_points: bool = True,
        block_lr_factor: Annotated[float, "block_lr_factor > 0"] = 1.0,
        block_floor: Annotated[float | None, "0 <= block_floor <= 1"] = None,
        head: Literal["mix_k", "one_k", "mix_q", "one_q"] = "mix_k",
        stage: Annotated[int, "1 <= stage <= 4"] = 3,
    ) -> None:
        block = functools.partial(
            MixBlock,
            encoding="channel" if lam_channel else "none",
            attention="cross",
            share_key=True,
            content="linear",
            upsampling="nearest",
        )
        adjusting, momentum = Adjusting(adjust, "backbone"), Momentum(ema_start, ema_end, ema_hold)
        loss = MaskLoss(variance, "batch", mask_weight, mask_decay)
        rate = BlockRate(block_lr_factor, block_floor)
        settings = Settings(
            alpha, margin, adjusting, loss, momentum, rate, fixed_points, head, stage
        )
        super().__init__(block, settings)
