"""Segmentation: a class for each pixel of a picture; judged by mean intersection over union."""

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import torch

from rm.datasets import Dataset
from rm.distributed import ProcessGroup
from rm.rundir.weights import InitialWeights
from rm.tasks import Evaluator
from rm.tasks._dense import Batch, DenseTask, EpochPlan
from rm.trial import Trial

METRICS = ("miou", "macc", "aacc")
USES = ("dataset", "backbone", "head", "train", "optimizer", "schedule", "init")
TOGETHER = {
    "not train.cuda_graph": "pictures and objects are of other sizes at each step",
    "train.batch_size % task.micro_batches == 0": "the parts of a batch are of one size",
}


class Segmentation(DenseTask):
    """One of mmseg's segmentation networks on a backbone."""

    PACKAGE = "mmseg"

    def __init__(
        self,
        trial: Trial,
        device: torch.device,
        group: ProcessGroup | None = None,
        init: InitialWeights | None = None,
        data: Dataset | None = None,
        *,
        steps: Annotated[int, "steps >= 1"] = 8000,
        micro_batches: Annotated[int, "micro_batches >= 1"] = 1,
    ) -> None:
        """data            in place of the trial's
        steps           of an epoch, which is what lies between two evaluations
        micro_batches   parts of a batch, over all processes and then one after the other; batch
                        norm sees each by itself
        """
        self._steps = steps
        super().__init__(trial, device, group, init, data, micro_batches=micro_batches)

    @property
    def steps_per_epoch(self) -> int:  # type: ignore[override]
        return self._steps

    def _configuration(self, channels: Sequence[int]) -> dict[str, Any]:
        config = super()._configuration(channels)
        reader: Any = self.train_split.reader
        size = (reader.crop, reader.crop)  # smaller pictures are padded to it
        return {**config, "data_preprocessor": {**config["data_preprocessor"], "size": size}}

    def epoch_plan(self, generator: np.random.Generator) -> EpochPlan:
        """Permutations of the pictures one after the other, in full batches."""
        shape = (self._steps, self.options.batch_size)
        rounds = -(-shape[0] * shape[1] // len(self.train_split))
        order = np.concatenate(
            [generator.permutation(len(self.train_split)) for _ in range(rounds)]
        )
        pictures = order[: shape[0] * shape[1]].reshape(shape)
        return EpochPlan(pictures, generator.integers(0, 2**63 - 1, shape))

    def evaluator(self) -> Evaluator:
        return _IouEvaluator(self)


class _IouEvaluator(Evaluator):
    """Pixels of each class that were taken for each other, over all pictures at their own size."""

    def __init__(self, task: Segmentation) -> None:
        self.task = task
        self.matrix = torch.zeros(task.classes, task.classes, dtype=torch.int64)

    def update(self, batch: Batch) -> None:
        from rm.dense.evaluation import confusion
        from rm.dense.models import classes_of

        reader: Any = self.task.test_split.reader
        for found in self.task.dense.predict(self.task.model, batch):
            predicted = classes_of(found)
            truth = torch.from_numpy(reader.labels(found.img_id)).to(predicted.device)
            self.matrix += confusion(predicted, truth, self.task.classes).cpu()

    def gather(self, group: ProcessGroup) -> None:
        found = group.gather(self.matrix)
        self.matrix = sum(found[1:], found[0]) if found else self.matrix

    def compute(self) -> dict[str, float]:
        from rm.dense.evaluation import iou_metrics

        return iou_metrics(self.matrix)
