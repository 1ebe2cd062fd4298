"""What detection and segmentation share: a backbone's four maps, a head of OpenMMLab's, pictures
with annotations read by other processes.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from rm import registry
from rm.backbones import Backbone
from rm.backbones._ghost_norm import group_batch_norm
from rm.backbones._layout import lay_out
from rm.datasets import AnnotatedSplit, DataError, Dataset, load
from rm.distributed import ProcessGroup
from rm.input.stream import ReadingPool
from rm.metrics import Metric
from rm.rundir.weights import InitialWeights
from rm.schedules import StepContext
from rm.tasks import StepOutput, Task, named_metrics, seed_generators
from rm.trial import Trial, TrialError

Batch = list[dict[str, Any]]
"""Samples (`rm.dense.models.Sample`)."""


class EpochPlan(NamedTuple):
    """Of each batch of an epoch its pictures and their seeds, (steps, B) int64."""

    pictures: NDArray[np.int64]
    seeds: NDArray[np.int64]


class DenseTask(Task):
    """A head on a backbone's maps. A subclass says in what order pictures come and how they are
    judged.
    """

    PACKAGE: str

    def __init__(
        self,
        trial: Trial,
        device: torch.device,
        group: ProcessGroup | None,
        init: InitialWeights | None,
        data: Dataset | None,
        *,
        frozen_stages: int = 0,
        frozen_norms: bool = False,
        micro_batches: int = 1,
    ) -> None:
        super().__init__()
        from rm.dense.draws import LastDraws
        from rm.dense.models import DenseModel

        self.trial, self.device, self.options = trial, device, trial.train
        self.group = group or ProcessGroup()
        count, size = self.group.count, self.options.batch_size
        most, least = max(count, micro_batches), min(count, micro_batches)
        if size % most or most % least:
            raise TrialError(
                f"batch_size {size} must be a multiple of the number of processes, {count}, and "
                f"of micro_batches, {micro_batches}, and one of these two of the other"
            )
        self._parts = max(1, micro_batches // count)
        self.dense = DenseModel(self.PACKAGE)
        data = data or _load_data(trial)
        self.classes = data.classes
        self.train_split, self.test_split = self._prepare(data)
        self.pool = ReadingPool(
            [self.train_split, self.test_split], self.group.count, device.type == "cuda"
        )
        seed_generators(trial.seed, device)
        with LastDraws():
            model = self._build_model(init, frozen_stages, frozen_norms)
        self.model: Any = lay_out(model, device, self.options)

    def _prepare(self, data: Dataset) -> tuple[AnnotatedSplit, AnnotatedSplit]:
        """The splits, whose readers may be told what the head needs."""
        train, test = data.train, data.test
        if not isinstance(train, AnnotatedSplit) or not isinstance(test, AnnotatedSplit):
            raise TrialError(f"{self.trial.name('dataset')} has pictures without annotations")
        if not len(train) or not len(test):
            raise DataError(
                f"{self.trial.name('dataset')} has {len(train)} pictures to train on and "
                f"{len(test)} to test on"
            )
        return train, test

    def _build_model(
        self, init: InitialWeights | None, frozen_stages: int, frozen_norms: bool
    ) -> Any:
        from rm.dense.maps import Maps

        trial = self.trial
        backbone: Backbone = registry.load("backbone", trial.name("backbone"))(
            1, 3, **trial.options("backbone")
        )
        if init is not None and init.part == "backbone":
            init.load_into(backbone)
        maps = Maps(backbone, frozen_stages, frozen_norms)
        model = self.dense.build(self._configuration(maps.channels), maps)
        model = model if frozen_norms else self._with_batch_norms(model)
        if init is not None and init.part == "model":
            names = {_plain(name): name for name in model.state_dict()}
            init.load_named(model, names, f"{trial.name('head')} on {trial.name('backbone')}")
        return model

    def _configuration(self, channels: Sequence[int]) -> dict[str, Any]:
        """Of OpenMMLab's model."""
        head = registry.load("head", self.trial.name("head"))
        config: dict[str, Any] = head(channels, self.classes, **self.trial.options("head"))
        return config

    def _with_batch_norms(self, model: Any) -> Any:
        """The model with batch norms that see `batch_norm_groups` shares of the batch of all
        processes, and at most a micro-batch; TrialError where these cannot be had.
        """
        groups, count = self.options.batch_norm_groups, self.group.count
        if groups % count == 0:
            group_batch_norm(model, max(1, groups // count // self._parts))
            return model
        if not any(isinstance(module, _BatchNorm) for module in model.modules()):
            return model
        if groups == 1 and self.device.type == "cuda":
            return nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        raise TrialError(
            f"batch_norm_groups {groups} with {count} processes: it must be a multiple of "
            "them, or 1 on GPUs, where batch norm then sees the batch of all of them"
        )

    def micro_batches(self, batch: Batch) -> Sequence[Batch]:
        size = len(batch) // self._parts
        return [batch[start : start + size] for start in range(0, len(batch), size)]

    def forward(self, batch: Batch, step: StepContext) -> StepOutput:
        losses = self.dense.losses(self.model, batch)
        logs = {
            f"train_{name}": value.detach() * len(batch) for name, value in losses.parts.items()
        }
        return StepOutput(losses.total, logs, len(batch))

    def batches(self, plan: EpochPlan, start: int) -> Iterator[Batch]:
        share = self.group.share(0, self.options.batch_size)
        rest = zip(plan.pictures[start:, share], plan.seeds[start:, share], strict=True)
        return self._read(self.train_split, 0, rest)

    def eval_batches(self) -> Iterator[Batch]:
        share = self.group.share(0, len(self.test_split))
        none = np.zeros(1, np.int64)
        # One by one, as they are published: a larger batch would pad them.
        return self._read(
            self.test_split, 1, ((np.array([n]), none) for n in range(share.start, share.stop))
        )

    def _read(self, split: AnnotatedSplit, number: int, requests: Any) -> Iterator[Batch]:
        for batch in self.pool.read(
            (number, split.index[pictures], seeds) for pictures, seeds in requests
        ):
            yield [self.dense.to_device(sample, self.device) for sample in batch]

    def metrics(self) -> Sequence[Metric]:
        return named_metrics(registry.entry("head", self.trial.name("head")).metrics)

    def deployed_names(self) -> dict[str, str]:
        """OpenMMLab's: its own models and scripts load them."""
        return {_plain(name): name for name in self.state_dict()}

    def facts(self) -> dict[str, int]:
        return {"test_images": len(self.test_split)}

    def close(self) -> None:
        self.pool.close()


def _plain(name: str) -> str:
    return re.sub(r"^backbone\.network\.", "backbone.", name.removeprefix("model."))


def _load_data(trial: Trial) -> Dataset:
    options = trial.options("dataset")
    limits = {key: options.pop(key) for key in ("limit", "test_limit", "held_out")}
    return load(trial.name("dataset"), options, **limits)


def with_pictures(data: Dataset, count: int | None) -> Dataset:
    """Tested on so many pictures only."""
    return replace(data, test=data.test.subset(count))


def with_reader(split: AnnotatedSplit, **options: Any) -> AnnotatedSplit:
    """The split with other options of its reader."""
    reader: Any = split.reader
    return replace(split, reader=replace(reader, **options))
