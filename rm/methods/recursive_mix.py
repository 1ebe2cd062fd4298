"""RecursiveMix: the previous mixed batch, resized, is pasted into the current one (Yang et al.,
NeurIPS 2022).

Area ~ U(0, alpha) and one box a batch, sample i with sample i of the previous step; labels mixed
by the clipped area (Eq. 1-2). The region's prediction, RoIAlign of the last map and a second
linear head, is pulled towards softmax of what the network said about the previous batch one step
earlier, with weight omega * area (Eq. 3-4). Where the paper
is silent, as on the clipped box, the authors' released code is followed.
"""

from collections.abc import Mapping
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from rm.backbones import Backbone
from rm.graph import Prepared
from rm.methods import Method, MethodOutput, Mixed, draw_partner
from rm.methods._consistency import ConsistencyNetwork
from rm.methods._history import PreviousBatch
from rm.ops import (
    Box,
    cut_fill,
    mix_targets,
    mixed_area,
    resize_fill,
    sample_box,
    soft_cross_entropy,
)
from rm.schedules import StepContext

TASKS = ("classification",)
CONSTRAINTS = {
    "history or omega "
    "== 0": "without history there is no earlier prediction to be consistent with",
    "omega > 0 or not share_head": "without the consistency loss there is no head to share",
}


class _Pasted(NamedTuple):
    """What is pasted into a batch: another batch, and which of this one's images they are."""

    images: Tensor
    targets: Tensor
    partner: Tensor | None


class RecursiveMix(Method):
    """The method, and what the paper takes away from it in its ablations.

    alpha           largest area
    omega           weight of the consistency loss; 0 leaves it, its head and their cost out ("+ RS
                    + HIS", Table 2)
    interpolation   how the previous images are resized (Table 4b)
    share_head      the region is read by the first head (Table 4a)
    history         false: the partner is a permutation of the batch itself, with RM's area;
                    "+ RS" of Table 2 is another thing, CutMix with its option `resize`
    resize          false: the partner is cut, as in CutMix, instead of resized (Sec. 3.1)
    roi             transposed: the released code until April 2023, which gave RoIAlign the box
                    with its axes swapped
    reset_history   never: the history outlives the epoch
    probability     of mixing a step at all
    """

    ZERO_GRADIENTS = True  # the second head takes no part in a plain step

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
        self.previous = PreviousBatch()

    def wrap_model(self, backbone: Backbone) -> nn.Module:
        if self.omega == 0:
            return backbone
        return ConsistencyNetwork(
            backbone, share_head=self.share_head, transposed=self.roi == "transposed"
        )

    def start_epoch(self) -> None:
        if self.reset_history == "epoch":
            self.previous.clear()

    def mix(
        self, images: Tensor, targets: Tensor, step: StepContext, model: nn.Module | None = None
    ) -> Mixed:
        return self._mix(images, targets, step.generator)[0]

    def loss(
        self, model: nn.Module, images: Tensor, targets: Tensor, step: StepContext
    ) -> MethodOutput:
        teacher_logits = self.previous.logits  # mixing puts this batch into their place
        mixed, box = self._mix(images, targets, step.generator)
        logs: dict[str, Tensor | float] = {"area": mixed.area, "consistency_loss": 0.0}
        if box is None or self.omega == 0 or teacher_logits is None:
            logits = model(mixed.images)
            loss = soft_cross_entropy(logits, mixed.targets)
        else:
            logits, roi_logits = model(mixed.images, box)
            consistency = soft_cross_entropy(roi_logits, _probabilities(teacher_logits, images))
            loss = soft_cross_entropy(logits, mixed.targets)
            loss = loss + self.omega * mixed.area * consistency
            logs["consistency_loss"] = consistency.detach()
        if self.use_history:
            self.previous.store_logits(logits)
        return MethodOutput(loss, logits, mixed, logs)

    def prepare(
        self, model: nn.Module, images: Tensor, targets: Tensor, step: StepContext
    ) -> Prepared | None:
        """Two kinds of steps: plain ones, and those with a region, whose box is in tensors."""
        network = model if isinstance(model, ConsistencyNetwork) else None
        if network is not None and network.map_size is None:
            return None
        teacher_logits = self.previous.logits
        mixed, box = self._mix(images, targets, step.generator)
        tensors = {"images": mixed.images, "targets": mixed.targets}
        logs: dict[str, Tensor | float] = {"area": mixed.area}
        size = (images.shape[-2], images.shape[-1])
        region = None if network is None or box is None else network.region_weights(box, size)
        if region is None or teacher_logits is None:
            return Prepared("plain", tensors, {**logs, "consistency_loss": 0.0}, len(images))
        teacher_probs = _probabilities(teacher_logits, images)
        weight = torch.tensor(self.omega * mixed.area, dtype=teacher_probs.dtype)
        tensors["teacher_probs"] = teacher_probs
        for name, value in (("region", region), ("weight", weight)):
            tensors[name] = value.to(images.device, teacher_probs.dtype, non_blocking=True)
        return Prepared("with region", tensors, logs, len(images))

    def compute(self, model: nn.Module, kind: str, tensors: Mapping[str, Tensor]) -> MethodOutput:
        if kind == "plain":
            return super().compute(model, kind, tensors)
        mixed = Mixed(tensors["images"], tensors["targets"])
        logits, roi_logits = model(mixed.images, tensors["region"])
        consistency = soft_cross_entropy(roi_logits, tensors["teacher_probs"])
        loss = soft_cross_entropy(logits, mixed.targets) + tensors["weight"] * consistency
        return MethodOutput(loss, logits, mixed, {"consistency_loss": consistency.detach()})

    def remember(self, logits: Tensor) -> None:
        if self.use_history:
            self.previous.store_logits(logits)

    def _mix(
        self, images: Tensor, targets: Tensor, generator: np.random.Generator
    ) -> tuple[Mixed, Box | None]:
        """The mixed batch, and the box in which the other one lies: None for a plain step, with
        nothing to paste or an empty box. It becomes the previous batch.
        """
        mixed, box = Mixed(images, targets), None
        pasted = self._pasted(images, targets, generator)
        if pasted is not None:
            size = (images.shape[-2], images.shape[-1])
            drawn = sample_box(size, float(generator.uniform(0, self.alpha)), generator)
            area = mixed_area(drawn, size)
            if area > 0:
                box = drawn
                mixed = Mixed(
                    self._filled(images, pasted.images, box),
                    mix_targets(targets, pasted.targets, area),
                    pasted.partner,
                    area,
                )
        if self.use_history:
            self.previous.store(mixed.images, mixed.targets)
        return mixed, box

    def _filled(self, images: Tensor, previous: Tensor, box: Box) -> Tensor:
        if self.resize:
            return resize_fill(images, previous, box, self.interpolation)
        return cut_fill(images, previous, box)

    def _pasted(
        self, images: Tensor, targets: Tensor, generator: np.random.Generator
    ) -> _Pasted | None:
        """The previous step's batch, or the batch itself in another order; None: a plain step."""
        if self.probability < 1 and generator.random() >= self.probability:
            return None
        if not self.use_history:
            partner = draw_partner(images, generator)
            return _Pasted(images[partner], targets[partner], partner)
        previous = self.previous
        # A history smaller than the batch can only be an epoch's short last batch, where it
        # outlives the epoch.
        if previous.images is None or previous.targets is None or len(previous) < len(images):
            return None
        return _Pasted(previous.images, previous.targets, None)


def _probabilities(teacher_logits: Tensor, images: Tensor) -> Tensor:
    """What the network said about the first images of the previous batch: (B, K), in fp32 or
    wider.
    """
    wide = torch.promote_types(teacher_logits.dtype, torch.float32)
    return teacher_logits[: len(images)].softmax(dim=1, dtype=wide)
