"""RecursiveMix: the previous mixed batch, resized, is pasted into the current one (Yang et al., NeurIPS 2022).

Area ~ U(0, alpha) and one box a batch, sample i with sample i of the previous step; labels mixed by the clipped area (Eq. 1-2).
The region's prediction, RoIAlign of the last map and a second linear head, is pulled towards softmax of what the network said
about the previous batch one step earlier, with weight omega * area (Eq. 3-4). Details: DESIGN.md, "What the paper leaves out".
"""

from typing import Annotated, Any, Literal

import numpy as np
from torch import Tensor, nn

from rm.backbones import Backbone
from rm.consistency import ConsistencyNetwork
from rm.history import History
from rm.methods import Method
from rm.ops import mix_targets, mixed_area, resize_fill, sample_box, soft_cross_entropy


class RecursiveMix(Method):
    """alpha: largest area; omega: weight of the consistency loss, 0 leaves it and its head out.

    interpolation: how the previous images are resized; share_head: the region is read by the first head; roi: `transposed`
    reproduces the code released until April 2023, which swapped the box's axes.
    """

    def __init__(
        self,
        *,
        alpha: Annotated[float, "0 < alpha <= 1"] = 0.5,
        omega: Annotated[float, "omega >= 0"] = 0.1,
        interpolation: Literal["nearest", "bilinear"] = "nearest",
        share_head: bool = False,
        roi: Literal["aligned", "transposed"] = "aligned",
    ) -> None:
        super().__init__()
        self.alpha, self.omega, self.interpolation = alpha, omega, interpolation
        self.share_head, self.roi = share_head, roi
        self.history = History()

    def network(self, backbone: Backbone) -> nn.Module:
        if self.omega == 0:
            return backbone
        return ConsistencyNetwork(backbone, share_head=self.share_head, transposed=self.roi == "transposed")

    def start_epoch(self) -> None:
        self.history.reset()

    def loss(
        self, model: nn.Module, images: Tensor, targets: Tensor, generator: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        last, area, consistency = self.history.last, 0.0, None
        if last is not None and len(last) >= len(images):
            size = (images.shape[-2], images.shape[-1])
            box = sample_box(size, float(generator.uniform(0, self.alpha)), generator)
            area = mixed_area(box, size)
        if last is None or area == 0:  # nothing to paste, or an empty box: a plain step
            logits = model(images)
        else:
            images = resize_fill(images, last.images, box, self.interpolation)
            targets = mix_targets(targets, last.targets, area)
            if self.omega == 0:
                logits = model(images)
            else:
                logits, region = model(images, box)
                said = last.logits[: len(images)].float().softmax(dim=1)
                consistency = soft_cross_entropy(region, said)
        loss = soft_cross_entropy(logits, targets)
        self.observed = {"area": area, "consistency_loss": 0.0 if consistency is None else consistency.detach()}
        if consistency is not None:
            loss = loss + self.omega * area * consistency
        self.history.push(images, targets, logits)
        return loss, logits

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.history.load_state_dict(state["history"])
