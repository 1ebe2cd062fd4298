"""Contrastive pre-training without labels: MoCo v2 (He et al., CVPR 2020; Chen et al., arXiv
2003.04297), in which any method may mix images. What it leaves is a backbone without a head; a
classification that starts from it with `freeze: backbone` is its linear evaluation.

One step: two views of each picture; NCE(q of the first, k of the second) and what the method adds
(`Method.contrast`); after the optimizer's step the keys of the second views enter the queue and k
follows q. Judged by nearest neighbours among frozen features, since there is no classifier.
"""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from rm import registry
from rm.backbones import Backbone
from rm.backbones._ghost_norm import group_batch_norm
from rm.backbones._layout import lay_out
from rm.datasets import AnnotatedSplit, DataError, Dataset, load
from rm.distributed import ProcessGroup
from rm.input.views import Recipe, TwoViews, all_plain, open_views, plain_images
from rm.methods import Method
from rm.methods._moco import MoCo, MoCoSettings
from rm.methods._momentum import follow
from rm.metrics import Metric
from rm.optimizers import ParameterGroup
from rm.rundir.weights import InitialWeights
from rm.schedules import StepContext
from rm.tasks import Evaluator, StepOutput, Task, named_metrics
from rm.tasks._neighbours import neighbour_accuracy
from rm.trial import Trial, TrialError

METRICS = ("neighbour_accuracy",)
USES = ("dataset", "backbone", "method", "train", "optimizer", "schedule", "init")
TOGETHER = {
    "task.queue % train.batch_size == 0": "the queue takes whole batches, the oldest out",
    "not train.cuda_graph": "its step is not split into what is drawn and what is computed",
    "train.repeats == 1 and train.label_smoothing == 0": "two views of a picture, and no labels",
}

EVALUATION_BATCH = 500
_DATASET_LIMITS = ("limit", "test_limit", "held_out")


class Contrastive(Task):
    """A backbone with a projector, its momentum copy and a queue of keys; with a method."""

    def __init__(
        self,
        trial: Trial,
        device: torch.device,
        group: ProcessGroup | None = None,
        init: InitialWeights | None = None,
        data: Dataset | None = None,
        *,
        queue: Annotated[int, "queue >= 1"] = 65536,
        temperature: Annotated[float, "temperature > 0"] = 0.2,
        momentum: Annotated[float, "0 <= momentum <= 1"] = 0.999,
        hidden: Annotated[int, "hidden >= 1"] = 2048,
        dim: Annotated[int, "dim >= 1"] = 128,
        cross_view: bool = True,
        smallest_area: Annotated[float, "0 < smallest_area <= 1"] = 0.2,
        colours: bool = True,
        blur: Annotated[float, "0 <= blur <= 1"] = 0.5,
        neighbours: Annotated[int, "neighbours >= 1"] = 200,
    ) -> None:
        """data            in place of the trial's
        queue           keys that a query is told apart from; a multiple of the batch
        momentum        of k: k <- m k + (1 - m) q after each step
        hidden, dim     of the projector
        cross_view      false: mixed images are compared with keys of the view that was mixed,
                        which collapses (the paper)
        smallest_area   of the part that a view shows; colours: jitter and grey; blur: how often
        neighbours      that vote, in the evaluation
        """
        super().__init__()
        self.trial, self.device, self.options = trial, device, trial.train
        self.group = group or ProcessGroup()
        self.data = _load_data(trial) if data is None else data
        self.follows, self.neighbours = momentum, neighbours
        _check_batches(trial, self.group.count, len(self.data.train))
        recipe = Recipe(
            smallest_area=smallest_area,
            jitter_probability=0.8 * colours,
            grey_probability=0.2 * colours,
            blur_probability=blur,
        )
        self._open_pictures(recipe)
        self.method: Method = registry.load("method", trial.name("method"))(
            **trial.options("method")
        )
        settings = MoCoSettings(queue, temperature, hidden, dim, cross_view)
        self.network = self._build_network(settings, init)
        self.method.to(device)
        self.pending: tuple[Tensor, Tensor] | None = None
        """Keys of this process's share of the step, and their pictures, for the queue."""

    def _open_pictures(self, recipe: Recipe) -> None:
        data, device, count = self.data, self.device, self.group.count
        self.views = open_views(data, recipe, device, count)
        self.memory = plain_images(data.labelled or data.train, data, device, count)
        self.test_images = plain_images(data.test, data, device, count)

    def _build_network(self, settings: MoCoSettings, init: InitialWeights | None) -> MoCo:
        torch.manual_seed(self.trial.seed)  # every method starts from the same weights
        backbone: Backbone = registry.load("backbone", self.trial.name("backbone"))(
            self.data.classes, self.data.channels, **self.trial.options("backbone")
        )
        if init is not None:  # before it is copied
            init.load_into(backbone)
        if self.options.compile:
            backbone.compile_features()
        network = MoCo(backbone, settings, self.group)
        network.pictures = lambda: self._pictures()  # no bound method: a copy would copy the task
        self.method.attach(network, _labels_of(self.data))
        for module in (network, self.method):
            group_batch_norm(module, self.options.batch_norm_groups // self.group.count)
        lay_out(network, self.device, self.options)
        return network

    def _pictures(self) -> Iterator[Tensor]:
        return all_plain(self.data, self.device, self.group.count, EVALUATION_BATCH)

    @property
    def steps_per_epoch(self) -> int:  # type: ignore[override]
        """Whole batches: the rest of an epoch's order is not shown."""
        return len(self.views) // self.options.batch_size

    def parameter_groups(self) -> list[ParameterGroup]:
        return self.method.parameter_groups(self.network)

    def epoch_plan(self, generator: np.random.Generator) -> Any:
        return self.views.sample_epoch(generator)

    def start_epoch(self) -> None:
        self.method.start_epoch()

    def batches(self, plan: Any, start: int) -> Iterator[TwoViews]:
        size = self.options.batch_size
        firsts = range(start * size, self.steps_per_epoch * size, size)
        return self.views.batches(plan, [self.group.share(at, at + size) for at in firsts])

    def forward(self, batch: TwoViews, step: StepContext) -> StepOutput:
        if not self.options.channels_last:
            batch = batch._replace(query=batch.query.contiguous(), key=batch.key.contiguous())
        found = self.method.contrast(self.network, batch, step)
        self.pending, size = (found.keys.detach(), batch.place), len(batch.place)
        return StepOutput(found.loss, {n: v * size for n, v in found.logs.items()}, size)

    @torch.no_grad()
    def after_step(self, step: StepContext) -> None:
        if self.pending is not None:
            self.network.queue.add(*(self.group.concatenated(each) for each in self.pending))
            self.pending = None
        # Before the next keys, as in the paper's loop, where it is done first: the same sequence.
        follow(*self.network.followed(), self.follows)
        self.method.after_step(self.network, step)

    def eval_batches(self) -> Iterator[tuple[bool, Tensor, Tensor]]:
        """Whether they are remembered or asked about; images; labels."""
        for remembered, images in ((True, self.memory), (False, self.test_images)):
            positions = self.group.share(0, len(images))
            for shown, labels in images.eval_batches(positions, EVALUATION_BATCH):
                yield remembered, shown, labels

    def evaluator(self) -> Evaluator:
        return _NeighbourEvaluator(self.network.online, self.data.classes, self.neighbours)

    def metrics(self) -> Sequence[Metric]:
        return named_metrics(METRICS)

    def deployed_names(self) -> dict[str, str]:
        """Those of q's backbone without its head, which nothing has trained."""
        backbone = self.network.online
        return {
            backbone.plain_name(name): f"network.online.{name}"
            for name in backbone.state_dict()
            if not name.startswith("head.")
        }

    def facts(self) -> dict[str, int]:
        return {"pictures": len(self.views), "test_images": len(self.test_images)}

    def close(self) -> None:
        for images in (self.views, self.memory, self.test_images):
            images.close()


class _NeighbourEvaluator(Evaluator):
    """Pooled features of labelled pictures and of test pictures, all of them at once."""

    def __init__(self, backbone: Backbone, classes: int, neighbours: int) -> None:
        self.backbone, self.classes, self.neighbours = backbone, classes, neighbours
        self.found: list[tuple[bool, Tensor, Tensor]] = []

    def update(self, batch: tuple[bool, Tensor, Tensor]) -> None:
        remembered, images, labels = batch
        pooled = self.backbone.pool(self.backbone.features(images))
        self.found.append((remembered, pooled.float(), labels))

    def gather(self, group: ProcessGroup) -> None:
        self.found = [one for found in group.gather(self.found) for one in found]

    def compute(self) -> dict[str, float]:
        sides: list[Tensor] = []
        for side in (True, False):
            sides.append(torch.cat([pooled for kind, pooled, _ in self.found if kind == side]))
            sides.append(torch.cat([labels for kind, _, labels in self.found if kind == side]))
        neighbours = min(self.neighbours, len(sides[1]))
        accuracy = neighbour_accuracy(*sides, classes=self.classes, neighbours=neighbours)
        return {"neighbour_accuracy": accuracy}


def _check_batches(trial: Trial, processes: int, pictures: int) -> None:
    size, groups = trial.train.batch_size, trial.train.batch_norm_groups
    if groups % processes or size % groups:
        raise TrialError(
            f"batch_norm_groups {groups} must be a multiple of the number of processes, "
            f"{processes}, and batch_size {size} one of batch_norm_groups: batch norm sees "
            f"1/{groups} of the batch, however many processes there are"
        )
    if pictures < size:
        raise DataError(
            f"{trial.name('dataset')} has {pictures} pictures to train on, which make no batch of "
            f"{size}: only whole batches enter the queue"
        )


def _labels_of(data: Dataset) -> Tensor:
    """Of the pictures that are shown, (N,); each -1 where there are none."""
    if isinstance(data.train, AnnotatedSplit):
        raise DataError("pictures with annotations are for detection and segmentation")
    return data.train.labels


def _load_data(trial: Trial) -> Dataset:
    options = trial.options("dataset")
    limits = {key: options.pop(key) for key in _DATASET_LIMITS}
    return load(trial.name("dataset"), options, **limits)
