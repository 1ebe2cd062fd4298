"""Inter-Intra: Mixup for two images of one cluster, CutMix for those of two, in contrastive
pre-training (the AMix paper's Fig. 2c).

x = lambda x_i + (1 - lambda) x_j where y_i = y_j, else x_i with a box of x_j; lambda, box and
permutation are one each a batch, y the clusters of online deep clustering (`_clusters.py`).
Source: the figure's caption, which names the two alphas; all else is ours.
"""

from typing import Annotated

import torch
from torch import Tensor, nn

from rm.input.views import TwoViews
from rm.methods import Method, Mixed, draw_partner
from rm.methods._clusters import PseudoLabels
from rm.methods._moco import Contrast, MoCo
from rm.ops import cut_fill, mixed_area, sample_box
from rm.schedules import StepContext

TASKS = ("contrastive",)
TOGETHER = {
    "dataset.limit is None or dataset.limit >= method.clusters": "no cluster is without a picture",
}


class InterIntra(Method):
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
        super().__init__()
        self.intra_alpha, self.inter_alpha, self.count = intra_alpha, inter_alpha, clusters
        self.shown: Tensor | None = None
        """The clusters of the batch that is being mixed."""

    def attach(self, network: MoCo, labels: Tensor) -> None:
        self.pseudo = PseudoLabels(len(labels), network.settings.dim, self.count)

    def contrast(self, network: MoCo, views: TwoViews, step: StepContext) -> Contrast:
        self.pseudo.start(network, step)
        self.shown = self.pseudo.labels[views.place]
        found = super().contrast(network, views, step)
        self.pseudo.note(views.place, found.keys)
        return found

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

    def after_step(self, model: nn.Module, step: StepContext) -> None:
        if isinstance(model, MoCo):
            self.pseudo.after_step(model, step)
