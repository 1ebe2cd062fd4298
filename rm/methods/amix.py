"""AMix: AutoMix whose mask knows lambda, attends to both images and is kept from being constant
("Improving discriminative visual representation learning via automatic mixup").

Mask of the partner P = sigmoid(up(softmax(q k^T / sqrt(c)) v)); q, k of [(1 + t) z_i;
(2 - t) z_j], v of (2 - t) z_j by two layers, t = lambda or r_k(lambda), z the third stage's map of
the momentum network; L_mask = max(|1 - mean P - lambda| - 0.1, 0) - 2 Var P. The step is in
`rm/methods/_mask_mixing.py`, the block in `_mix_block.py`.

Source: Westlake-AI/openmixup at 37e1372, where it is called SAMix. Paper and code differ often;
defaults are the code's, and the options reach the paper's text: share_key, gamma, activation,
dropout, sigmoid_first, mean, variance. attention, content, upsampling and variance none are the
steps from AutoMix (Table 8).
"""

import functools
from typing import Annotated, Any, Literal

from rm.methods._block_teacher import Lesson
from rm.methods._mask_mixing import MaskMixing
from rm.methods._mask_settings import MaskTerms
from rm.methods._mix_block import MixBlock

TASKS = ("classification",)
REQUIRES_FEATURES = ("stages",)
TOGETHER = {
    "not train.cuda_graph": "its mix block learns beside the network, by numbers of a step"
}
CONSTRAINTS = {
    "ema_start <= ema_end": "the momentum grows",
    "content == 'nonlinear' or dropout == 0": "the linear content has no dropout",
    "mask_decay == 'constant' or mask_weight > 0": "there is no mask loss to decay",
    "left_out == 'none' or objective == 'infonce'": "only infoNCE has negatives",
    "pseudo_labels is None or objective in ('ce', 'pbce') or left_out != 'none'": "unused",
}


class AMix(MaskMixing):
    """Options of the block are explained at `MixBlock`, those of the mask loss at `mask_loss`.

    alpha            of the Beta distribution of both lambdas
    margin           a backbone's lambda this near to 0 or 1 makes its step plain Mixup
    adjust           probability that the backbone's masks are moved to lambda (`adjusted`)
    adjust_to        block: to the other lambda, the block's, as the released code does by mistake
    mask_weight      beta of the mask loss; mask_decay: cosine, it falls to 0 over the training
    objective        what the block's images are judged by: ce, Mixup's cross-entropy; pbce, which
                     of the two classes; bce, which of the two images; infonce, whose key among
                     `keys` older ones, with left_out without those of either's label (Table 1)
    pseudo_labels    so many online clusters of all pictures in place of the labels there
    ema_end          momentum at the end; it is ema_start for the first share ema_hold of the
                     training. Trainings much shorter than the paper's 400,000 steps need less
    fixed_points     false: partners are drawn again where one is the image itself (CUB, Aircraft)
    block_lr_factor  the block's learning rate by the trial's; block_floor: and where its cosine
                     ends, by its start; null: with the trial's schedule
    head             what is deployed and judged first; the other three are recorded beside it
    stage            whose map the block reads
    """

    def __init__(
        self,
        *,
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
        adjust_to: Literal["backbone", "block"] = "backbone",
        objective: Literal["ce", "pbce", "bce", "infonce"] = "ce",
        pseudo_labels: Annotated[int | None, "pseudo_labels >= 2"] = None,
        keys: Annotated[int, "keys >= 1"] = 65536,
        left_out: Literal["none", "same_label"] = "none",
        **options: Any,
    ) -> None:
        block = functools.partial(MixBlock, rescale=rescale, gamma=gamma, attention=attention)
        block = functools.partial(
            block, share_key=share_key, content=content, activation=activation
        )
        block = functools.partial(
            block, dropout=dropout, upsampling=upsampling, sigmoid_first=sigmoid_first
        )
        lesson = Lesson(objective, pseudo_labels, keys, left_out)
        super().__init__(block, MaskTerms(variance, mean, adjust_to), lesson, **options)
