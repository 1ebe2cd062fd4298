"""AutoMix: a block learns, through a momentum network, which pixels of two images go into their
mixture (Liu et al., ECCV 2022, arXiv 2103.13027); the predecessor of AMix and a row of its tables.

Mask of the partner P = sigmoid(up(softmax(q k^T / sqrt(c)) v)), q = W z_i, k = W z_j, v = w z_j,
z the third stage's map of the momentum network; L_mask = max(|1 - mean P - lambda| - 0.1, 0). The
step is in `rm/methods/_mask_mixing.py`. As Westlake-AI/openmixup at 37e1372 has it: its CIFAR-100
and Tiny-ImageNet configurations give the block no lambda at all (`lam_channel: false`), so there
the mask does not depend on lambda.
"""

import functools
from typing import Any, Literal

from rm.methods._mask_mixing import MaskMixing
from rm.methods._mask_settings import MaskTerms
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
        lam_channel: bool = False,
        variance: Literal["none", "released"] = "none",
        **options: Any,
    ) -> None:
        block = functools.partial(
            MixBlock,
            encoding="channel" if lam_channel else "none",
            attention="cross",
            share_key=True,
            content="linear",
            upsampling="nearest",
        )
        super().__init__(block, MaskTerms(variance), **options)
