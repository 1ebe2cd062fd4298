"""Detection: boxes, and for some heads masks, of the objects in a picture; judged by COCO's
average precision.
"""

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray

from rm.datasets import AnnotatedSplit, DataError, Dataset
from rm.distributed import ProcessGroup
from rm.rundir.weights import InitialWeights
from rm.tasks import Evaluator, ListEvaluator
from rm.tasks._dense import Batch, DenseTask, EpochPlan, with_reader
from rm.trial import Trial

METRICS = ("box_ap", "box_ap50", "box_ap75", "mask_ap", "mask_ap50", "mask_ap75")
USES = ("dataset", "backbone", "head", "train", "optimizer", "schedule", "init")
TOGETHER = {
    "not train.cuda_graph": "pictures and objects are of other sizes at each step",
    "train.batch_size % task.micro_batches == 0": "the parts of a batch are of one size",
}


class Detection(DenseTask):
    """One of mmdet's detectors on a backbone."""

    PACKAGE = "mmdet"

    def __init__(
        self,
        trial: Trial,
        device: torch.device,
        group: ProcessGroup | None = None,
        init: InitialWeights | None = None,
        data: Dataset | None = None,
        *,
        frozen_stages: Annotated[int, "0 <= frozen_stages <= 4"] = 1,
        frozen_norms: bool = True,
        iterations: Annotated[int | None, "iterations >= 1"] = None,
        micro_batches: Annotated[int, "micro_batches >= 1"] = 1,
    ) -> None:
        """data            in place of the trial's
        frozen_stages   of a ResNet, with the stem
        frozen_norms    whether batch norms keep their statistics
        iterations      steps of an epoch, where it is not one pass over the pictures
        micro_batches   parts of a batch, over all processes and then one after the other, as if
                        each were a device's: padded, normalised, shown to batch norm by itself
        """
        self._iterations = iterations
        super().__init__(
            trial,
            device,
            group,
            init,
            data,
            frozen_stages=frozen_stages,
            frozen_norms=frozen_norms,
            micro_batches=micro_batches,
        )

    def _prepare(self, data: Dataset) -> tuple[AnnotatedSplit, AnnotatedSplit]:
        train, test = super()._prepare(data)
        reader: Any = train.reader
        semantic = bool(self.trial.options("head").get("semantic"))
        if semantic and not reader.stuff.is_dir():
            raise DataError(
                f"the semantic branch needs the maps of COCO-stuff in {reader.stuff}; put "
                "stuffthingmaps_trainval2017 there, or set head.semantic: false"
            )
        self.has_masks = any(metric.name == "mask_ap" for metric in self.metrics())
        return with_reader(train, masks=self.has_masks, labels=semantic), test

    @property
    def _kinds(self) -> list[NDArray[np.int64]]:
        """Positions of the wide pictures and of the others; a batch is of one kind."""
        reader: Any = self.train_split.reader
        wide = reader.wide[self.train_split.index]
        return [kind for kind in (np.flatnonzero(wide), np.flatnonzero(~wide)) if len(kind)]

    @property
    def steps_per_epoch(self) -> int:  # type: ignore[override]
        return self._iterations or self._steps_per_pass

    @property
    def _steps_per_pass(self) -> int:
        return sum(-(-len(kind) // self.options.batch_size) for kind in self._kinds)

    def epoch_plan(self, generator: np.random.Generator) -> EpochPlan:
        """Passes over the pictures, the last one cut off where `iterations` say so."""
        passes = -(-self.steps_per_epoch // self._steps_per_pass)
        pictures = np.concatenate([self._one_pass(generator) for _ in range(passes)])
        pictures = pictures[: self.steps_per_epoch]
        return EpochPlan(pictures, generator.integers(0, 2**63 - 1, pictures.shape))

    def _one_pass(self, generator: np.random.Generator) -> NDArray[np.int64]:
        """(steps, B): each picture once, batches of one kind filled up from it (mmdet 2's group
        sampler).
        """
        size, batches = self.options.batch_size, []
        for kind in self._kinds:
            order = generator.permutation(kind)
            batches.append(np.resize(order, (-(-len(kind) // size), size)))
        return generator.permutation(np.concatenate(batches))

    def evaluator(self) -> Evaluator:
        return _PrecisionEvaluator(self)


class _PrecisionEvaluator(ListEvaluator):
    """Average precision over all pictures of the split, as its data set has it."""

    def __init__(self, task: Detection) -> None:
        super().__init__()
        self.task = task

    def update(self, batch: Batch) -> None:
        from rm.dense.models import instances

        found = self.task.dense.predict(self.task.model, batch)
        self.add([(each.img_id, instances(each)) for each in found])

    def compute(self) -> dict[str, float]:
        reader: Any = self.task.test_split.reader
        found: Mapping[int, Mapping[str, Any]] = dict(self.results)
        metrics: dict[str, float] = reader.precision(found, self.task.has_masks)
        return metrics
