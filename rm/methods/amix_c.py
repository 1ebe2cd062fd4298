"""AMix-C: AMix in contrastive pre-training, whose mix block learns from clusters ("Improving
discriminative visual representation learning via automatic mixup").

The block's images m are judged by lambda CE(c(m), y_i) + (1 - lambda) CE(c(m), y_j) and by which
of the two sources is which; y are pseudo labels of online deep clustering, c a linear head on k's
projection that learns from unmixed pictures. The encoder's loss stays contrastive. The step is in
`rm/methods/_mask_contrast.py`, the clusters are in `_clusters.py`.

Source: the paper, and the released class's defaults (Westlake-AI/openmixup at 37e1372); there is
no released configuration. In that class mixed features also pass through the head that is being
trained, so that the block's gradient counts twice; here through its copy alone.
"""

from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rm.datasets import DataError
from rm.input.views import TwoViews
from rm.methods._clusters import PseudoLabels
from rm.methods._mask_contrast import Clean, MaskContrast, Mixture
from rm.methods._moco import Contrast, MoCo
from rm.ops import mix_targets, pair_cross_entropy, soft_cross_entropy
from rm.schedules import StepContext

TASKS = ("contrastive",)
REQUIRES_FEATURES = ("stages",)
CONSTRAINTS = {
    "content == 'nonlinear' or dropout == 0": "the linear content has no dropout",
    "negatives == 'all' or objective in ('infonce', 'ce + infonce')": "BCE has no such negatives",
}
TOGETHER = {
    "dataset.limit is None or dataset.limit >= method.clusters": "no cluster is without a picture",
}


class AMixC(MaskContrast):
    """Options that AMix-I has too mean the same there.

    objective   of the block: ce, Mixup's cross-entropy of pseudo labels; pbce, which of the two
                labels; bce and infonce as AMix-I's
    clusters    how many
    labels      truth: those of the data set, in place of clusters (Table 1's rows with (L))
    negatives   other_labels: without keys that share a label with either source (infoNCE (PL))
    """

    def __init__(
        self,
        *,
        objective: Literal[
            "ce + bce", "ce", "pbce", "bce", "infonce", "ce + infonce"
        ] = "ce + bce",
        clusters: Annotated[int, "clusters >= 2"] = 200,
        labels: Literal["clusters", "truth"] = "clusters",
        negatives: Literal["all", "other_labels"] = "all",
        **options: Any,
    ) -> None:
        super().__init__(objective, **options)
        self.count, self.truth, self.filtered = clusters, labels == "truth", negatives != "all"

    def attach(self, network: MoCo, labels: Tensor) -> None:
        super().attach(network, labels)
        if self.truth and bool((labels < 0).any()):
            raise DataError("labels: truth needs pictures with labels, and these have none")
        count = int(labels.max()) + 1 if self.truth else self.count
        dim = network.settings.dim
        self.pseudo = PseudoLabels(len(labels), dim, count, truth=labels if self.truth else None)
        self.head = nn.Linear(dim, count)

    def contrast(self, network: MoCo, views: TwoViews, step: StepContext) -> Contrast:
        self.pseudo.start(network, step)
        found = super().contrast(network, views, step)
        self.pseudo.note(views.place, found.keys)
        return found

    def block_loss(
        self, network: MoCo, taught: Mixture, clean: Clean, step: StepContext
    ) -> Tensor:
        """With that of the head, which only pictures as they are reach."""
        labels = self.pseudo.labels[clean.place]
        logits = self.head(clean.projected)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        weights = self.pseudo.weights()
        weights = None if weights is None else weights.to(logits.dtype)
        loss = F.cross_entropy(logits, labels, weights, reduction="none")
        return super().block_loss(network, taught, clean, step) + loss.mean()

    def label_loss(self, projected: Tensor, taught: Mixture, clean: Clean) -> Tensor:
        labels = self.pseudo.labels[clean.place]
        partner = labels[taught.partner]
        # A copy of the head as it is: the block's images do not teach it.
        logits = F.linear(projected, self.head.weight.detach(), self.head.bias.detach())
        if "pbce" in self.settings.objective:
            return pair_cross_entropy(logits, labels, partner, taught.lam)
        targets = F.one_hot(labels, len(self.head.weight)).to(logits.dtype)
        mixed = mix_targets(targets, targets[taught.partner], 1 - taught.lam)
        return soft_cross_entropy(logits, mixed)

    def left_out(self, network: MoCo, taught: Mixture, clean: Clean) -> Tensor | None:
        if not self.filtered:
            return None
        labels, places = self.pseudo.labels, network.queue.places
        queued = labels[places.clamp(min=0)].where(places >= 0, -1)
        own = labels[clean.place]
        return (queued == own[:, None]) | (queued == own[taught.partner][:, None])

    def after_step(self, model: nn.Module, step: StepContext) -> None:
        super().after_step(model, step)
        if isinstance(model, MoCo):
            self.pseudo.after_step(model, step)
