"""RecursiveMix: the previous mixed batch, resized, is pasted into the current one (Yang et al.,
NeurIPS 2022).

Area ~ U(0, alpha) and one box a batch, sample i with sample i of the previous step; labels mixed
by the clipped area (Eq. 1-2). The region's prediction, RoIAlign of the last map and a second
linear head, is pulled towards softmax of what the network said about the previous batch one step
earlier, with weight omega * area (Eq. 3-4). Details: DESIGN.md, "What the paper leaves out".
"""

from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from rm.backbones import Backbone
from rm.methods import Method
from rm.methods._consistency import ConsistencyNetwork
from rm.methods._history import History, Triplet
from rm.ops import (
    Box,
    cut_fill,
    mix_targets,
    mixed_area,
    resize_fill,
    sample_box,
    soft_cross_entropy,
)

CONSTRAINTS = {
    "history or omega "
    "== 0": "without history there is no earlier prediction to be consistent with",
    "omega > 0 or not share_head": "without the consistency loss there is no head to share",
}


class RecursiveMix(Method):
    """The method, and what the paper takes away from it in its ablations.

    alpha           largest area
    omega           weight of the consistency loss; 0 leaves it, its head and their cost out ("+ RS
                    + HIS", Table 2)
    interpolation   how the previous images are resized (Table 4b)
    share_head      the region is read by the first head (Table 4a)
    history         false: the partner is a permutation of the batch itself ("+ RS", Table 2)
    resize          false: the partner is cut, as in CutMix, instead of resized
    roi             transposed: the released code until April 2023, which gave RoIAlign the box
                    with its axes swapped
    reset_history   never: the history outlives the epoch
    probability     of mixing a step at all
    """

    def __init__(
        self,
        *,
        alpha: Annotated[float, "0 < alpha <= 1"] = 0.5,
        omega: Annotated[float, "omega >= 0"] = 0.1,
        interpolation: Literal["nearest", "bilinear"] = "nearest",
        share_head: bool = False,
        history: bool = True,
        resize: bool = True,
        roi: Literal["aligned", "transposed"] = "aligned",
        reset_history: Literal["epoch", "never"] = "epoch",
        probability: Annotated[float, "0 <= probability <= 1"] = 1.0,
    ) -> None:
        super().__init__()
        self.alpha, self.omega, self.interpolation = alpha, omega, interpolation
        self.share_head, self.resize, self.roi = share_head, resize, roi
        self.use_history, self.reset_history, self.probability = (
            history,
            reset_history,
            probability,
        )
        self.history = History()

    def network(self, backbone: Backbone) -> nn.Module:
        if self.omega == 0:
            return backbone
        return ConsistencyNetwork(
            backbone, share_head=self.share_head, transposed=self.roi == "transposed"
        )

    def start_epoch(self) -> None:
        if self.reset_history == "epoch":
            self.history.reset()

    def loss(
        self, model: nn.Module, images: Tensor, targets: Tensor, generator: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        partner = self._partner(images, targets, generator)
        box, area = None, 0.0
        if partner is not None:
            size = (images.shape[-2], images.shape[-1])
            box = sample_box(size, float(generator.uniform(0, self.alpha)), generator)
            area = mixed_area(box, size)
        said, region = None, None
        if (
            partner is None or box is None or area == 0
        ):  # nothing to paste, or an empty box: a plain step
            logits = model(images)
        else:
            images = self._filled(images, partner.images, box)
            targets = mix_targets(targets, partner.targets, area)
            if self.omega == 0:
                logits = model(images)
            else:
                said = partner.logits[: len(images)]
                said = said.softmax(dim=1, dtype=torch.promote_types(said.dtype, torch.float32))
                logits, region = model(images, box)
        loss = soft_cross_entropy(logits, targets)
        self.observed = {"area": area, "consistency_loss": 0.0}
        if said is not None and region is not None:
            consistency = soft_cross_entropy(region, said)
            loss = loss + self.omega * area * consistency
            self.observed["consistency_loss"] = consistency.detach()
        if self.use_history:
            self.history.push(images, targets, logits)
        return loss, logits

    def _filled(self, images: Tensor, previous: Tensor, box: Box) -> Tensor:
        if self.resize:
            return resize_fill(images, previous, box, self.interpolation)
        return cut_fill(images, previous, box)

    def _partner(
        self, images: Tensor, targets: Tensor, generator: np.random.Generator
    ) -> Triplet | None:
        """What is pasted into this batch: the previous step's, or the batch itself in another
        order; None: a plain step.
        """
        if self.probability < 1 and generator.random() >= self.probability:
            return None
        if self.use_history:
            last = self.history.last
            # A history smaller than the batch can only be an epoch's short last batch, where it
            # outlives the epoch.
            return None if last is None or len(last) < len(images) else last
        order = torch.from_numpy(generator.permutation(len(images))).to(
            images.device, non_blocking=True
        )
        return Triplet(
            images[order], targets[order], logits=targets[order]
        )  # CONSTRAINTS keeps these from being read

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.history.load_state_dict(state["history"])
