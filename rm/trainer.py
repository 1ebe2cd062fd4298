"""Everything that a training step reads or changes: built from a trial, stepped, evaluated, saved
and restored. What is trained is its task's; nothing here knows one.
"""

import functools
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rm import registry
from rm.distributed import ProcessGroup
from rm.graph import Computed, Prepared, StaticStep
from rm.input.ahead import BatchesAhead
from rm.metrics import best_epoch
from rm.rundir.weights import InitialWeights
from rm.schedules import Progress, StepContext
from rm.tasks import StepOutput, Task, mean_output
from rm.trial import Trial, TrialError

_PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_STREAMS = {"plan": 0, "step": 1}


class Trainer:
    """A trial in training: before `step` (from 0) of `epoch` (from 1), with the metrics of the
    epochs behind it.

    task   one that is built already; default: the trial's
    init   the weights that its task starts from, if any
    """

    def __init__(
        self,
        trial: Trial,
        device: torch.device,
        group: ProcessGroup | None = None,
        *,
        task: Task | None = None,
        init: InitialWeights | None = None,
    ) -> None:
        self.trial, self.device, self.options = trial, device, trial.train
        self.group = group or ProcessGroup()
        self.task: Task = task or registry.load("task", trial.task)(
            trial, device, self.group, init, **trial.options("task")
        )
        self.init_sha256 = init.sha256 if init else None
        self.forward = self.group.wrap(self.task)
        self.parts = self.task.parameter_groups()
        self.optimizer: torch.optim.Optimizer = registry.load(
            "optimizer", trial.name("optimizer")
        )(self.parts, **trial.options("optimizer"))
        self.trained = [p for part in self.parts for p in part.parameters if p.requires_grad]
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.options.precision == "fp16")
        self.schedule = functools.partial(
            registry.load("schedule", trial.name("schedule")), **trial.options("schedule")
        )
        self.epoch = 1
        self.epochs: list[dict[str, Any]] = []
        self.best_weights: dict[str, Tensor] | None = None
        self.first_nonfinite_step = torch.tensor(-1, device=device)
        self.used: set[int] = set()
        """Which of `trained` have had a gradient."""
        self.static = self._static_step()
        self.batches = BatchesAhead(device)
        self.start_epoch()

    @property
    def steps_per_epoch(self) -> int:
        return self.task.steps_per_epoch

    @property
    def position(self) -> Progress:
        """Of the step that comes; at an epoch's end, of its last one."""
        step = min(self.step, self.steps_per_epoch - 1)
        epoch = min(self.epoch, self.options.epochs)
        return Progress(epoch, self.options.epochs, step, self.steps_per_epoch)

    @property
    def lr(self) -> float:
        """The trial's learning rate; a part of the task may have another."""
        return float(self.trial.choices["optimizer"]["lr"]) * float(self.schedule(self.position))

    def _rng(self, stream: str) -> np.random.Generator:
        return np.random.default_rng([self.trial.seed, self.epoch, _STREAMS[stream]])

    def start_epoch(self) -> None:
        """Fresh generators, sums and plan; the task forgets what is not to outlive an epoch."""
        self.batches.restart(lambda: self.task.batches(self.epoch_plan, self.step))
        self.step, self.seconds = 0, 0.0
        self.sums: dict[str, Any] = {}
        self.generator = self._rng("step")
        self.task.start_epoch()
        self.epoch_plan = self.task.epoch_plan(self._rng("plan"))

    def train_step(self) -> StepOutput | None:
        """One optimizer step on this process's share of the next batch; None where a last batch
        was too small to be shared out.
        """
        batch, context = next(self.batches, None), self._step_context()
        self.step += 1
        if batch is None:
            return None
        self._set_learning_rates(context.position)
        output = self._on_static_buffers(batch, context)
        if output is None:
            parts = list(self.task.micro_batches(batch))
            del batch  # else its images would be held through the backward pass
            output = self._gradients(parts, context)
            self._optimizer_step()
        self.task.after_step(context)
        self._accumulate(output)
        self.batches.make_next()
        return output

    def _gradients(self, parts: list[Any], context: StepContext) -> StepOutput:
        """Forward and backward passes. `parts`, equal ones of a batch, is emptied; their gradients
        are added up, and what they give is that of the whole.
        """
        outputs, count = list[StepOutput](), len(parts)
        while parts:
            with self.group.averaging(self.forward, len(parts) == 1):
                with self._autocast():
                    outputs.append(self.forward(parts.pop(0), context))
                if len(outputs) == 1:  # not before: a method may leave gradients in its forward
                    self.optimizer.zero_grad(set_to_none=True)
                share = outputs[-1].loss if count == 1 else outputs[-1].loss / count
                self.scaler.scale(share).backward()  # type: ignore[no-untyped-call]
        return outputs[0] if len(outputs) == 1 else mean_output(outputs)

    def _static_step(self) -> StaticStep | None:
        """None: steps stay eager, as those of several processes, whose gradients meet midway."""
        if not self.options.cuda_graph or self.group.count > 1:
            return None
        if not self.task.has_fixed_shapes:
            raise TrialError(
                f"trial {self.trial.id} sets train.cuda_graph, which needs a task and a method "
                "with prepare() and compute()"
            )
        return StaticStep(self._compute_and_step, self.optimizer, self.device)

    def _on_static_buffers(self, batch: Any, context: StepContext) -> StepOutput | None:
        """The same step by way of `rm.graph`; None where it has to be an eager one."""
        filling = self.task.zero_gradients and len(self.used) < len(self.trained)
        if self.static is None or filling:  # which gradients are zeros must not change any more
            return None
        with self._autocast():
            prepared: Prepared | None = self.task.prepare(batch, context)
        if prepared is None:
            return None
        computed = self.static(prepared)
        self.task.remember(computed.said)
        return StepOutput(computed.loss, {**prepared.logs, **computed.logs}, prepared.size)

    def _compute_and_step(self, kind: str, tensors: Mapping[str, Tensor]) -> Computed:
        with self._autocast():
            computed = self.task.compute(kind, tensors)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(computed.loss).backward()  # type: ignore[no-untyped-call]
        self._optimizer_step()
        return computed._replace(loss=computed.loss.detach())

    def _step_context(self) -> StepContext:
        groups = self.options.batch_norm_groups // self.group.count
        return StepContext(self.generator, self.position, max(groups, 1))

    def _set_learning_rates(self, position: Progress) -> None:
        base, factor = float(self.trial.choices["optimizer"]["lr"]), self.schedule(position)
        for group in self.optimizer.param_groups:
            part = self.parts[group["part"]]
            own = factor if part.schedule is None else part.schedule(position)
            rate = base * float(own) * part.lr_factor
            # As graphs read it on a GPU, so that both kinds of steps have the same bits.
            group["lr"] = float(np.float32(rate)) if self.device.type == "cuda" else rate

    def _optimizer_step(self) -> None:
        if self.task.zero_gradients:
            self._fill_gradients()
        if self.options.clip_norm:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.trained, self.options.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _fill_gradients(self) -> None:
        """Zeros where a parameter took no part in this step, as the released code's zero_grad()
        (torch 1.7) leaves them. Before its first gradient a parameter has none, and stays.
        """
        for index, parameter in enumerate(self.trained):
            if parameter.grad is not None:
                self.used.add(index)
            elif index in self.used:
                parameter.grad = torch.zeros_like(parameter)

    def _accumulate(self, output: StepOutput) -> None:
        """Add to the epoch's sums on the device, read once an epoch: no step waits for the
        device.
        """
        loss = output.loss.detach()
        self.first_nonfinite_step = torch.where(
            torch.isfinite(loss) | (self.first_nonfinite_step >= 0),
            self.first_nonfinite_step,
            self.step,
        )
        sums = {"train_loss": loss.double() * output.size, "size": output.size, **output.logs}
        for name, value in sums.items():
            self.sums[name] = self.sums.get(name, 0) + value

    def _autocast(self) -> torch.autocast:
        dtype = _PRECISIONS[self.options.precision]
        return torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32)

    def end_epoch(self) -> dict[str, Any]:
        """Evaluate, and move on to the next epoch; returns the metrics of the one that ended."""
        names = sorted(self.sums)
        totals = self.group.sums(float(self.sums[name]) for name in names)
        sums = dict(zip(names, totals, strict=True))
        size = sums.pop("size")
        metrics: dict[str, Any] = {"epoch": self.epoch, "lr": self.lr}
        metrics |= {name: value / size for name, value in sums.items()}
        if self.epoch % self.options.evaluate_every == 0 or self.epoch == self.options.epochs:
            metrics |= self.evaluate()
        metrics |= {
            "epoch_seconds": round(self.seconds, 4),
            "images_per_second": round(size / max(self.seconds, 1e-9), 4),
        }
        if self.device.type == "cuda":
            metrics["peak_memory_mib"] = torch.cuda.max_memory_allocated(self.device) / 2**20
        self.epochs.append(metrics)
        if self.options.keep_best and self._is_best(metrics):
            self.best_weights = self.task.deployed()
        self.epoch += 1
        self.start_epoch()
        return metrics

    def _is_best(self, metrics: dict[str, Any]) -> bool:
        primary = self.task.metrics()[0]
        evaluated = [epoch for epoch in self.epochs if f"test_{primary.name}" in epoch]
        return metrics in evaluated and best_epoch(evaluated, primary) is metrics

    @torch.inference_mode()
    def evaluate(self) -> dict[str, float]:
        """What the task's evaluator finds, as `test_<metric>`, alike in every process. In fp32,
        whatever the precision of the training: errors are to be those of the weights.
        """
        self.group.share_buffers(self.task)
        self.task.eval()
        evaluator = self.task.evaluator()
        for batch in self.task.eval_batches():
            evaluator.update(batch)
        self.task.train()
        evaluator.gather(self.group)
        found = self.group.broadcast(evaluator.compute() if self.group.is_first else None)
        return {f"test_{name}": value for name, value in found.items()}

    def close(self) -> None:
        """End what runs beside the training, where anything does."""
        self.batches.close()
        self.task.close()

    def state_dict(self) -> dict[str, Any]:
        """All that the rest of the training depends on. Called by every process; complete on the
        first one.
        """
        state, parameters = self.task.state_dict(), dict(self.task.named_parameters())
        on_gpu = self.device.type == "cuda"
        own = {
            # Each process has its own batch-norm statistics until the next step, and its own
            # previous batch.
            "state": {name: value for name, value in state.items() if name not in parameters},
            "generator": json.dumps(self.generator.bit_generator.state),
            "torch_rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(self.device) if on_gpu else None,
            "sums": self.sums,
        }
        return {
            "trial": self.trial.id,
            "position": [self.epoch, self.step],
            "task": state,
            "deployed": self.task.deployed_names(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "processes": self.group.gather(own),
            "epochs": self.epochs,
            "seconds": self.seconds,
            "used": sorted(self.used),
            "best_weights": self.best_weights,
            "init_sha256": self.init_sha256,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`; TrialError for another trial's, or that of another number
        of processes.
        """
        if state["trial"] != self.trial.id:
            raise TrialError(f"the checkpoint is of trial {state['trial']}, not {self.trial.id}")
        if len(state["processes"]) != self.group.count:
            raise TrialError(
                f"the checkpoint is of {len(state['processes'])} processes, not of "
                f"{self.group.count}"
            )
        self.static = self._static_step()  # what it captured knows the optimizer's former state
        own = state["processes"][self.group.rank]
        self.epoch, self.epochs = state["position"][0], state["epochs"]
        self.start_epoch()
        self.step, self.seconds, self.sums = state["position"][1], state["seconds"], own["sums"]
        self.task.load_state_dict({**state["task"], **own["state"]})
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.used = set(state["used"])
        best = state["best_weights"]
        self.best_weights = best and {name: value.cpu() for name, value in best.items()}
        self.init_sha256 = state["init_sha256"]
        self.generator.bit_generator.state = json.loads(own["generator"])
        torch.set_rng_state(own["torch_rng"].cpu())
        if self.device.type == "cuda" and own["cuda_rng"] is not None:
            torch.cuda.set_rng_state(own["cuda_rng"].cpu(), self.device)
