"""Inter-Intra: Mixup for two images of one cluster, CutMix for those of two, in contrastive
pre-training (the AMix paper's Fig. 2c).

x = lambda x_i + (1 - lambda) x_j where y_i = y_j, else x_i with a box of x_j; lambda, box and
permutation are one each a batch, y the clusters of online deep clustering (`_clusters.py`).
Source: the figure's caption, which names the two alphas; all else is ours.
"""

from typing import Annotated

import torch
from torch import Tensor, nn

from rm.methods import Mixed, draw_partner
from rm.methods._clustered import ClusteredMethod
from rm.ops import cut_fill, mixed_area, sample_box
from rm.schedules import StepContext

TASKS = ("contrastive",)
TOGETHER = {
    "dataset.limit is None or dataset.limit >= method.clusters": "no cluster is without a picture",
}


class InterIntra(ClusteredMethod):
    """intra_alpha: of Mixup within a cluster; inter_alpha: of CutMix between two; clusters: how
    many.
    """

    def __init__(
        self,
        *,
        intra_alpha: Annotated[float, "intra_alpha > 0"] = 2.0,
        inter_alpha: Annotated[float, "inter_alpha > 0"] = 0.2,
        clusters: Annotated[int, "clusters >= 2"] = 200,
    ) -> None:
        super().__init__(clusters)
        self.intra_alpha, self.inter_alpha = intra_alpha, inter_alpha

    def mix(
        self, images: Tensor, targets: Tensor, step: StepContext, model: nn.Module | None = None
    ) -> Mixed:
        if self.shown is None:
            raise RuntimeError("Inter-Intra mixes by clusters: contrast() knows them")
        generator = step.generator
        partner = draw_partner(images, generator, step.groups)
        blended = 1 - float(generator.beta(self.intra_alpha, self.intra_alpha))
        size = (images.shape[-2], images.shape[-1])
        box = sample_box(
            size, 1 - float(generator.beta(self.inter_alpha, self.inter_alpha)), generator
        )
        within = self.shown == self.shown[partner]
        others = images[partner]
        mixed = torch.where(
            within[:, None, None, None],
            torch.lerp(images, others, blended),
            cut_fill(images, others, box),
        )
        area = torch.where(within, blended, mixed_area(box, size)).to(targets.dtype)
        targets = (1 - area)[:, None] * targets + area[:, None] * targets[partner]
        logs = {"area": area.mean(), "within": within.float().mean()}
        return Mixed(mixed, targets, partner, area, logs)
