"""What methods have in common that mix by clusters of all pictures in contrastive pre-training."""

from torch import Tensor, nn

from rm.input.views import TwoViews
from rm.methods import Method
from rm.methods._clusters import PseudoLabels
from rm.methods._moco import Contrast, MoCo
from rm.schedules import StepContext


class ClusteredMethod(Method):
    """clusters   how many; None: none, as in supervised training

    shown      the clusters of the batch that is being mixed (B,); None without any
    """

    def __init__(self, clusters: int | None) -> None:
        super().__init__()
        self.count = clusters
        self.shown: Tensor | None = None
        self.pseudo: PseudoLabels | None = None

    def attach(self, network: MoCo, labels: Tensor) -> None:
        super().attach(network, labels)
        if self.count is not None:
            self.pseudo = PseudoLabels(len(labels), network.settings.dim, self.count)

    def contrast(self, network: MoCo, views: TwoViews, step: StepContext) -> Contrast:
        if self.pseudo is None:
            return super().contrast(network, views, step)
        self.pseudo.start(network, step)
        self.shown = self.pseudo.labels[views.place]
        found = super().contrast(network, views, step)
        self.pseudo.note(views.place, found.keys)
        return found

    def after_step(self, model: nn.Module, step: StepContext) -> None:
        if self.pseudo is not None and isinstance(model, MoCo):
            self.pseudo.after_step(model, step)
