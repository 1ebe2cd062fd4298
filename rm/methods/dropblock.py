"""DropBlock: contiguous blocks of the last two stages' feature maps are set to zero (Ghiasi et
al., NeurIPS 2018).

Each element that can be a block's corner starts one with probability gamma, for every sample and
channel by itself; what is left is divided by its share of the map: x = x * mask / mean(mask),
gamma = (1-p)/b^2 * HW / ((H-b+1) (W-b+1)).

Source: tensorflow/tpu, models/official/resnet (`dropblock` in resnet_model.py; resnet_main.py):
blocks lie whole inside the map, p holds in the last stage and 1 - (1-p)/4 in the one before. There
p falls linearly from 1 during the training, which is `schedule: linear`. One thing differs: there
DropBlock follows each convolution and shortcut inside those stages; here each stage, once, so that
its strength does not grow with a network's depth. Rows of the RM paper: Tables 1 and 6, quoted
from CutMix's paper: keep_prob 0.9 and block_size 4 on CIFAR-10; on ImageNet "the optimal setting"
of the DropBlock paper, keep_prob 0.9 and block_size 7, the defaults here.
"""

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rm.backbones import Backbone, FeatureHooks
from rm.methods import Method, MethodOutput, Mixed
from rm.ops import soft_cross_entropy
from rm.schedules import StepContext

TASKS = ("classification",)
REQUIRES_FEATURES = ("stages",)
TOGETHER = {"not train.cuda_graph": "its noise is seeded anew at each step"}


class DropBlock(Method):
    """block_size: a block's side in elements, at most the map's; keep_prob: p, the share of the
    last stage's map to be kept; schedule: whether p holds from the start, or falls linearly to it.
    """

    def __init__(
        self,
        *,
        block_size: Annotated[int, "block_size >= 1"] = 7,
        keep_prob: Annotated[float, "0 < keep_prob <= 1"] = 0.9,
        schedule: Literal["constant", "linear"] = "constant",
    ) -> None:
        super().__init__()
        self.block_size, self.keep_prob, self.schedule = block_size, keep_prob, schedule

    def wrap_model(self, backbone: Backbone) -> nn.Module:
        stages = backbone.named_stages()
        before, last = list(stages)[-2:]
        self.keep_probs = {before: 1 - (1 - self.keep_prob) / 4, last: self.keep_prob}
        self.hooks = FeatureHooks({name: stages[name] for name in self.keep_probs})
        return backbone

    def loss(
        self, model: nn.Module, images: Tensor, targets: Tensor, step: StepContext
    ) -> MethodOutput:
        seed = int(step.generator.integers(2**62))
        noise = torch.Generator(images.device).manual_seed(seed)
        logs: dict[str, Tensor | float] = {}

        def dropped(stage: str, features: Tensor) -> Tensor:
            keep_prob = self.keep_probs[stage]
            if self.schedule == "linear":
                keep_prob = 1 - (1 - keep_prob) * step.progress
            mask = block_mask(features.shape, self.block_size, keep_prob, noise)
            logs[f"kept_{stage}"] = kept = mask.mean()
            # A map dropped as a whole stays zero. Only the whole batch's being dropped could make
            # the share zero.
            return features * (mask / kept.clamp_min(1 / mask.numel())).to(features.dtype)

        with self.hooks.active(dropped):
            logits = model(images)
        loss = soft_cross_entropy(logits, targets)
        return MethodOutput(loss, logits, Mixed(images, targets), logs)


def block_mask(
    shape: torch.Size, block_size: int, keep_prob: float, noise: torch.Generator
) -> Tensor:
    """Zeros in blocks that lie inside the map, ones elsewhere: (B, C, H, W), about keep_prob of it
    ones.
    """
    batch, channels, height, width = shape
    side = min(block_size, height, width)
    corners = (height - side + 1, width - side + 1)
    gamma = (1 - keep_prob) / side**2 * height * width / (corners[0] * corners[1])
    starts = (
        torch.rand(batch, channels, *corners, generator=noise, device=noise.device) < gamma
    ).float()
    return 1 - F.max_pool2d(F.pad(starts, (side - 1,) * 4), side, stride=1)
