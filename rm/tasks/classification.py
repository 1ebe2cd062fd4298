"""Classification: images to one label each, by any backbone and any method; supervised training,
fine-tuning (`init`), and with `freeze: backbone` linear evaluation.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rm import registry
from rm.backbones import Backbone
from rm.backbones._ghost_norm import group_batch_norm
from rm.backbones._layout import lay_out
from rm.datasets import AnnotatedSplit, Dataset, load
from rm.distributed import ProcessGroup
from rm.graph import Computed, Prepared
from rm.input.stream import open_images
from rm.input.views import all_plain
from rm.methods import Method, MethodOutput, TrainingPictures
from rm.metrics import Metric
from rm.optimizers import ParameterGroup
from rm.rundir.weights import InitialWeights
from rm.schedules import StepContext
from rm.tasks import StepOutput, SumEvaluator, Task, named_metrics, seed_generators
from rm.trial import Trial, TrialError

METRICS = ("top1_error", "top5_error", "loss")
USES = ("dataset", "backbone", "method", "train", "optimizer", "schedule", "init", "freeze")

EVALUATION_BATCH = 500
_DATASET_LIMITS = ("limit", "test_limit", "held_out")

Batch = tuple[Tensor, ...]
"""images (B, C, H, W), labels (B,), and where a method asks for them the pictures' places (B,)."""


class Classification(Task):
    """A backbone with a method, trained on labelled images."""

    def __init__(
        self,
        trial: Trial,
        device: torch.device,
        group: ProcessGroup | None = None,
        init: InitialWeights | None = None,
        data: Dataset | None = None,
    ) -> None:
        """data: other images than those of the trial's data set, which is not looked for then."""
        super().__init__()
        self.trial, self.device, self.options = trial, device, trial.train
        self.group = group or ProcessGroup()
        self.data = _load_data(trial) if data is None else data
        if self.data.labelled is not None:
            raise TrialError(
                f"the training pictures of {trial.name('dataset')} have no labels, as its options "
                "ask: they are for contrastive training"
            )
        if self.options.label_smoothing and self.data.classes < 2:
            raise TrialError("label_smoothing moves mass to other classes, and there is one class")
        self.images, self.test_images = open_images(self.data, device, self.group.count)
        method: Method = registry.load("method", trial.name("method"))(**trial.options("method"))
        self.model = self._build_model(method, init)
        if not isinstance(self.data.train, AnnotatedSplit):
            labels = self.data.train.labels
            pictures = TrainingPictures(labels, lambda: self._pictures(), self.group)
            method.introduce(self.model, pictures)
        self.method = method.to(device)

    def _build_model(self, method: Method, init: InitialWeights | None) -> nn.Module:
        groups, count = self.options.batch_norm_groups, self.group.count
        if groups % count or self.options.batch_size % count:
            raise TrialError(
                f"batch_size {self.options.batch_size} and batch_norm_groups {groups} must be "
                f"multiples of the number of processes, {count}: batch norm sees 1/{groups} of "
                "the batch, however many processes there are"
            )
        # Every method starts from the same backbone weights.
        seed_generators(self.trial.seed, self.device)
        backbone: Backbone = registry.load("backbone", self.trial.name("backbone"))(
            self.data.classes, self.data.channels, **self.trial.options("backbone")
        )
        if init is not None:  # before the method may copy it
            init.load_into(backbone)
        if self.trial.freeze is not None:
            _check_freezable(method, self.trial)
            backbone.freeze()
        if self.options.compile:
            backbone.compile_features()
        model = method.wrap_model(backbone)
        group_batch_norm(model, groups // count)
        return lay_out(model, self.device, self.options)

    def _pictures(self) -> Iterator[Tensor]:
        return all_plain(self.data, self.device, self.group.count, EVALUATION_BATCH)

    @property
    def steps_per_epoch(self) -> int:  # type: ignore[override]
        return -(-len(self.images) // self.options.batch_size)

    @property
    def zero_gradients(self) -> bool:
        return self.method.ZERO_GRADIENTS

    def parameter_groups(self) -> list[ParameterGroup]:
        return self.method.parameter_groups(self.model)

    def epoch_plan(self, generator: np.random.Generator) -> Any:
        return self.images.sample_epoch(generator, self.options.repeats)

    def start_epoch(self) -> None:
        self.method.start_epoch()

    def batches(self, plan: Any, start: int) -> Iterator[Batch]:
        size, total = self.options.batch_size, len(self.images)
        bounds = [(first, min(first + size, total)) for first in range(start * size, total, size)]
        shares = [
            self.group.share(first, last)
            for first, last in bounds
            if last - first >= self.group.count
        ]
        shown = self.images.batches(plan, shares)
        if not self.method.needs_places:
            return shown
        places = (plan.places[share] for share in shares)
        return ((*batch, own) for batch, own in zip(shown, places, strict=True))

    def forward(self, batch: Batch, step: StepContext) -> StepOutput:
        images, labels, *places = batch
        if places:
            step = step._replace(places=places[0])
        if not self.options.channels_last:
            images = images.contiguous()
        try:
            output = self.method(self.model, images, self._targets(labels), step)
        except ValueError as error:  # torch's batch norm: one image, and a map of one pixel
            if "more than 1 value per channel" not in str(error):
                raise
            raise TrialError(
                f"batch norm has one value a channel in a batch of {len(images)}, of which it "
                "can take no variance: choose a batch_size that leaves no rest of one image, of "
                f"{len(self.images)}, or larger images"
            ) from None
        return StepOutput(output.loss, _logs(output, labels), len(labels))

    @property
    def has_fixed_shapes(self) -> bool:
        return self.method.has_fixed_shapes

    def prepare(self, batch: Batch, step: StepContext) -> Prepared | None:
        images, labels, *places = batch
        if places:
            step = step._replace(places=places[0])
        if len(labels) < self.options.batch_size // self.group.count:
            return None  # an epoch's last batch
        if not self.options.channels_last:
            images = images.contiguous()
        prepared = self.method.prepare(self.model, images, self._targets(labels), step)
        if prepared is None:
            return None
        logs = {name: value * len(labels) for name, value in prepared.logs.items()}
        return prepared._replace(tensors={**prepared.tensors, "labels": labels}, logs=logs)

    def compute(self, kind: str, tensors: Mapping[str, Tensor]) -> Computed:
        output = self.method.compute(self.model, kind, tensors)
        logs = _logs(output, tensors["labels"])
        return Computed(output.loss, logs, {"logits": output.logits.detach()})

    def remember(self, said: Mapping[str, Tensor]) -> None:
        self.method.remember(said["logits"])

    def _targets(self, labels: Tensor) -> Tensor:
        """(B,) -> (B, K) one-hot, smoothed by epsilon/(K-1) on the other classes."""
        targets = F.one_hot(labels, self.data.classes).float()
        smoothing, others = self.options.label_smoothing, self.data.classes - 1
        if not smoothing:
            return targets
        return targets * (1 - smoothing - smoothing / others) + smoothing / others

    def after_step(self, step: StepContext) -> None:
        self.method.after_step(self.model, step)

    def eval_batches(self) -> Iterator[Batch]:
        positions = self.group.share(0, len(self.test_images))
        return self.test_images.eval_batches(positions, EVALUATION_BATCH)

    def evaluator(self) -> "_ErrorEvaluator":
        return _ErrorEvaluator(self.model, self.data.classes, self.device)

    def metrics(self) -> Sequence[Metric]:
        return named_metrics(METRICS)

    def deployed_names(self) -> dict[str, str]:
        backbone = self.method.deployed(self.model)
        place = next(name for name, module in self.named_modules() if module is backbone)
        return {backbone.plain_name(name): f"{place}.{name}" for name in backbone.state_dict()}

    def facts(self) -> dict[str, int]:
        return {"test_images": len(self.test_images)}

    def close(self) -> None:
        self.images.close()
        self.test_images.close()


class _ErrorEvaluator(SumEvaluator):
    """Loss, top-1 and top-5 error (%), every image once. Of a network with several heads they are
    the first one's; the others' errors are called `top1_error.<head>`.
    """

    def __init__(self, model: nn.Module, classes: int, device: torch.device) -> None:
        super().__init__(device)
        self.model, self.top = model, min(5, classes)
        self.count = 0

    def update(self, batch: Batch) -> None:
        images, labels = batch
        output: Tensor | Mapping[str, Tensor] = self.model(images)
        heads = {"": output} if isinstance(output, Tensor) else dict(output)
        primary, *others = heads
        logits = heads[primary].float()
        hits = logits.topk(self.top).indices == labels[:, None]
        self.add("loss", F.cross_entropy(logits, labels, reduction="sum"))
        self.add("top1", hits[:, 0].sum())
        self.add("top5", hits.sum())
        for head in others:
            self.add(f"top1.{head}", (heads[head].argmax(1) == labels).sum())
        self.add("images", torch.tensor(len(labels)))

    def compute(self) -> dict[str, float]:
        shares = {name: total / self.totals["images"] for name, total in self.totals.items()}
        errors = {
            f"top1_error{name.removeprefix('top1')}": 100 * (1 - share)
            for name, share in shares.items()
            if name.startswith("top1.")
        }
        return {
            "loss": shares["loss"],
            "top1_error": 100 * (1 - shares["top1"]),
            "top5_error": 100 * (1 - shares["top5"]),
            **errors,
        }


def _logs(output: MethodOutput, labels: Tensor) -> dict[str, Tensor | float]:
    """A method's scalars and the training error (%), as sums over the batch."""
    logs = {name: value * len(labels) for name, value in output.logs.items()}
    logs["train_top1_error"] = 100 * (output.logits.detach().argmax(1) != labels).sum()
    return logs


def _load_data(trial: Trial) -> Dataset:
    options = trial.options("dataset")
    limits = {key: options.pop(key) for key in _DATASET_LIMITS}
    return load(trial.name("dataset"), options, **limits)


def _check_freezable(method: Method, trial: Trial) -> None:
    """A method that acts inside the backbone has nothing to act on where that stays as it is."""
    if type(method).mix is Method.mix:
        raise TrialError(
            f"method '{trial.name('method')}' acts inside the backbone, which `freeze` keeps as "
            "it is: use a method that mixes images"
        )
