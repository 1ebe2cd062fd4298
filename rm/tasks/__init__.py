"""Tasks: what is trained and judged, one file each, `rm/tasks/<name>.py`, with one public class, a
Task, and two literals.

METRICS   names of `rm.metrics.METRICS` that its evaluation reports, the primary one first
USES      sections of a trial that it reads

The trainer (`rm/trainer.py`) steps, evaluates, saves and resumes any of them alike. A task is
built as `Name(trial, device, group, init, **options)`; its keyword-only parameters are the options
that a spec can set under `task`.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from rm.distributed import ProcessGroup
from rm.graph import Computed, Prepared
from rm.metrics import METRICS, Metric
from rm.optimizers import ParameterGroup
from rm.schedules import StepContext


class StepOutput(NamedTuple):
    """What a step's forward pass gives.

    loss   scalar, with its graph
    logs   name -> sum over the batch; an epoch's metric is the sum of these over that of `size`
    size   samples in this process's share of the batch
    """

    loss: Tensor
    logs: Mapping[str, Tensor | float]
    size: int


def mean_output(outputs: Sequence[StepOutput]) -> StepOutput:
    """Of equal parts of a batch, that of the batch, without a graph."""
    loss = torch.stack([output.loss.detach() for output in outputs]).mean()
    names = dict.fromkeys(name for output in outputs for name in output.logs)
    logs = {name: sum(output.logs.get(name, 0.0) for output in outputs) for name in names}
    return StepOutput(loss, logs, sum(output.size for output in outputs))


class Evaluator:
    """Gathers over the evaluated batches what the metrics are made of.

    The trainer calls `update` with each batch of this process's share, in evaluation mode, then
    `gather` in every process, and `compute` in the first one.
    """

    def update(self, batch: Any) -> None:
        """Evaluate one batch of `Task.eval_batches`."""
        raise NotImplementedError(f"{type(self).__name__} does not define update()")

    def gather(self, group: ProcessGroup) -> None:
        """Bring together what the processes found."""
        raise NotImplementedError(f"{type(self).__name__} does not define gather()")

    def compute(self) -> dict[str, float]:
        """Metric (without `test_`) -> value."""
        raise NotImplementedError(f"{type(self).__name__} does not define compute()")


class SumEvaluator(Evaluator):
    """Of metrics that are means: `add` keeps float64 sums on the device, read once."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.sums: dict[str, Tensor] = {}
        self.totals: dict[str, float] = {}
        """The sums over all processes, after `gather`."""

    def add(self, name: str, value: Tensor) -> None:
        """Add a scalar to the sum of that name."""
        if name not in self.sums:
            self.sums[name] = torch.zeros((), dtype=torch.float64, device=self.device)
        self.sums[name] += value

    def gather(self, group: ProcessGroup) -> None:
        totals = group.sums(float(value) for value in self.sums.values())
        self.totals = dict(zip(self.sums, totals, strict=True))


class ListEvaluator(Evaluator):
    """Of metrics of whole lists (average precision): `add` keeps what was found for each sample;
    the first process has them all afterwards, in the order of the ranks, which is that of the
    samples.
    """

    def __init__(self) -> None:
        self.results: list[Any] = []

    def add(self, results: Sequence[Any]) -> None:
        """One entry a sample: tensors, arrays and plain values."""
        self.results.extend(results)

    def gather(self, group: ProcessGroup) -> None:
        self.results = [result for results in group.gather(self.results) for result in results]


class Task(nn.Module):
    """What a training optimizes and how it is judged. Its parameters, buffers and extra state are
    what is saved; several processes wrap it as one module, so a step may run its networks often.
    """

    steps_per_epoch: int

    def epoch_plan(self, generator: np.random.Generator) -> Any:
        """What the coming epoch shows, at each of its positions, whoever reads which."""
        raise NotImplementedError(f"{type(self).__name__} does not define epoch_plan()")

    def start_epoch(self) -> None:
        """Called before the first step of each epoch (not when resuming inside one)."""

    def batches(self, plan: Any, start: int) -> Iterator[Any]:
        """This process's share of each batch of the epoch from step `start` on. They may end
        early, where a last batch is too small to be shared out: then the step does nothing.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define batches()")

    def micro_batches(self, batch: Any) -> Sequence[Any]:
        """The batch in equal parts, whose gradients are added up before the optimizer's step: a
        batch that does not fit into the memory at once.
        """
        return [batch]

    def forward(self, batch: Any, step: StepContext) -> StepOutput:
        raise NotImplementedError(f"{type(self).__name__} does not define forward()")

    @property
    def has_fixed_shapes(self) -> bool:
        """Whether it defines `prepare` and `compute`, so that a GPU can replay its step."""
        return False

    def prepare(self, batch: Any, step: StepContext) -> Prepared | None:
        """The part of `forward` that differs from step to step; None, with nothing drawn yet, for
        a step that `forward` has to take: that of a short last batch.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define prepare()")

    def compute(self, kind: str, tensors: Mapping[str, Tensor]) -> Computed:
        """The rest of `forward`: of kind and tensors as prepared, by the same operators for all
        steps of a kind, with no number but those in the tensors.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define compute()")

    def remember(self, said: Mapping[str, Tensor]) -> None:
        """Called after such a step with what `compute` gave it for that."""

    def after_step(self, step: StepContext) -> None:
        """Called after the optimizer's step: momentum networks, queues."""

    def eval_batches(self) -> Iterator[Any]:
        """This process's share of what is evaluated."""
        raise NotImplementedError(f"{type(self).__name__} does not define eval_batches()")

    def evaluator(self) -> Evaluator:
        """A fresh one, for one evaluation."""
        raise NotImplementedError(f"{type(self).__name__} does not define evaluator()")

    def metrics(self) -> Sequence[Metric]:
        """What its evaluator reports, the primary one first."""
        raise NotImplementedError(f"{type(self).__name__} does not define metrics()")

    @property
    def zero_gradients(self) -> bool:
        """Whether a parameter that took no part in a step gets a gradient of zero once it has had
        one, so that momentum and weight decay go on; else it stays as it is.
        """
        return False

    def parameter_groups(self) -> list[ParameterGroup]:
        """All parameters with the trial's learning rate. Frozen ones are left out later."""
        return [ParameterGroup(list(self.parameters()))]

    def deployed_names(self) -> dict[str, str]:
        """Name in the deployed weights -> name in this task's state dict: what `init` of a later
        trial loads and `rm.export` writes.
        """
        return {name: name for name in self.state_dict()}

    def deployed(self) -> dict[str, Tensor]:
        """The deployed weights: copies on the CPU."""
        return pick_deployed(self.state_dict(), self.deployed_names())

    def facts(self) -> dict[str, int]:
        """Whole numbers for result.json."""
        return {}

    def close(self) -> None:
        """End what runs beside the training, reading processes for one."""


def seed_generators(seed: int, device: torch.device) -> None:
    """What `torch.manual_seed` does, for the devices that train here. It would also walk the stack
    for each kind of device that is not here, and keep what it found for ever: 1 ms a trial.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed_all(seed)


def named_metrics(names: Sequence[str]) -> list[Metric]:
    """The metrics of a task's METRICS."""
    return [METRICS[name] for name in names]


def pick_deployed(state: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Tensor]:
    """The deployed weights out of a task's state dict: copies on the CPU, each whole by itself."""
    return {
        name: state[own].detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, own in names.items()
    }
