"""Everything that a training step reads or changes: built from a trial, stepped, evaluated, saved
and restored.
"""

import functools
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rm import registry
from rm.backbones import Backbone
from rm.backbones._ghost_norm import group_batch_norm
from rm.datasets import Dataset, load
from rm.distributed import ProcessGroup
from rm.input.stream import open_images
from rm.methods import Method
from rm.trial import Trial, TrialError

EVALUATION_BATCH = 500
_PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_STREAMS = {"views": 0, "method": 1}


class Run:
    """A trial in training: at `step` of `epoch` (from 1), with the metrics of the epochs behind
    it.

    data   other images than those of the trial's data set, which is not looked for then
    """

    def __init__(
        self,
        trial: Trial,
        device: torch.device,
        processes: ProcessGroup | None = None,
        data: Dataset | None = None,
    ) -> None:
        self.trial, self.device, self.options = trial, device, trial.train
        self.processes = processes or ProcessGroup()
        limits = {
            key: trial.choices["dataset"][key] for key in ("limit", "test_limit", "held_out")
        }
        others = {
            key: value for key, value in trial.options("dataset").items() if key not in limits
        }
        self.data = load(trial.name("dataset"), others, **limits) if data is None else data
        self.train, self.test = open_images(self.data, device, self.processes.count)
        self.method: Method = registry.load("method", trial.name("method"))(
            **trial.options("method")
        )
        self.model = self._build_model()
        self.forward = self.processes.wrap(self.model)
        self.optimizer: torch.optim.Optimizer = registry.load(
            "optimizer", trial.name("optimizer")
        )(self.model, **trial.options("optimizer"))
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.options.precision == "fp16")
        schedule = registry.load("schedule", trial.name("schedule"))
        self.factor = functools.partial(schedule, **trial.options("schedule"))
        self.epoch = 1
        self.epochs: list[dict[str, Any]] = []
        self.bad_step = torch.tensor(-1, device=device)
        self.start_epoch()

    def _build_model(self) -> torch.nn.Module:
        groups, count = self.options.batch_norm_groups, self.processes.count
        if groups % count or self.options.batch_size % count:
            raise TrialError(
                f"batch_size {self.options.batch_size} and batch_norm_groups {groups} must be "
                "multiples of the number of "
                f"processes, {count}: batch norm sees 1/{groups} of the batch, however many "
                "processes there are"
            )
        torch.manual_seed(self.trial.seed)  # every method starts from the same backbone weights
        backbone: Backbone = registry.load("backbone", self.trial.name("backbone"))(
            self.data.classes, self.data.channels, **self.trial.options("backbone")
        )
        if self.options.compile:
            # Only the features: their shapes never change, whatever box a method draws.
            backbone.features = torch.compile(backbone.features)  # type: ignore[method-assign]
        model = self.method.network(backbone)
        group_batch_norm(model, groups // count)
        layout = torch.channels_last if self.options.channels_last else torch.contiguous_format
        return model.to(self.device).to(memory_format=layout)

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.train) // self.options.batch_size)

    @property
    def lr(self) -> float:
        base = float(self.trial.choices["optimizer"]["lr"])
        return base * float(self.factor(min(self.epoch, self.options.epochs), self.options.epochs))

    def _rng(self, stream: str) -> np.random.Generator:
        return np.random.default_rng([self.trial.seed, self.epoch, _STREAMS[stream]])

    def start_epoch(self) -> None:
        """Fresh generators, sums and order; the method forgets what it forgets at an epoch's
        start.
        """
        self.step, self.seconds = 0, 0.0
        self.sums: dict[str, Any] = {}
        self.generator = self._rng("method")
        self.method.start_epoch()
        self.views = self.train.sample_epoch(self._rng("views"))
        self.batches: Iterator[tuple[Tensor, Tensor]] | None = None

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """This process's share of each batch from the present step to the epoch's end, one too
        small to be shared left out.
        """
        size, whole = self.options.batch_size, len(self.train)
        bounds = [
            (start, min(start + size, whole)) for start in range(self.step * size, whole, size)
        ]
        shares = [
            self.processes.share(*each)
            for each in bounds
            if each[1] - each[0] >= self.processes.count
        ]
        return self.train.batches(self.views, shares)

    def take_step(self) -> None:
        """One optimizer step on the next batch, this process's share of it."""
        self.batches = self.batches or self._batches()
        batch = next(self.batches, None)
        self.step += 1
        if batch is None:
            return  # a last batch too small to be shared out
        images, labels = batch
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr
        if not self.options.channels_last:
            images = images.contiguous()
        with self._autocast():
            loss, logits = self.method.loss(
                self.forward, images, self._targets(labels), self.generator
            )
        self._descend(loss)
        self._count(loss.detach(), logits.detach(), labels)

    def _descend(self, loss: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        for parameter in self.model.parameters():
            if parameter.grad is None:
                # No part in this step (RM's second head in a plain one). Gradient zero, so that
                # momentum and weight decay go on, as in the released code, where zero_grad() left
                # zeros.
                parameter.grad = torch.zeros_like(parameter)
        if self.options.clip_norm:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.options.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _count(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add to the epoch's sums on the device, read once an epoch: no step waits for the
        device.
        """
        self.bad_step = torch.where(
            torch.isfinite(loss) | (self.bad_step >= 0), self.bad_step, self.step
        )
        values = {"train_loss": loss.double(), **self.method.observed}
        sums = {name: value * len(labels) for name, value in values.items()}
        sums |= {
            "images": len(labels),
            "train_top1_error": 100 * (logits.argmax(1) != labels).sum(),
        }
        for name, value in sums.items():
            self.sums[name] = self.sums.get(name, 0) + value

    def _targets(self, labels: Tensor) -> Tensor:
        """(B,) -> (B, K) one-hot, smoothed by epsilon/(K-1) on the other classes."""
        targets = F.one_hot(labels, self.data.classes).float()
        smoothing, others = self.options.label_smoothing, self.data.classes - 1
        return (
            targets * (1 - smoothing - smoothing / others) + smoothing / others
            if smoothing
            else targets
        )

    def _autocast(self) -> torch.autocast:
        precision = self.options.precision
        return torch.autocast(
            self.device.type, _PRECISIONS[precision], enabled=precision != "fp32"
        )

    def end_epoch(self) -> dict[str, Any]:
        """Evaluate, and move on to the next epoch; returns the metrics of the one that ended."""
        names = sorted(self.sums)
        sums = dict(
            zip(names, self.processes.sums(float(self.sums[name]) for name in names), strict=True)
        )
        images = sums.pop("images")
        metrics = {"epoch": self.epoch, "lr": self.lr} | {
            name: value / images for name, value in sums.items()
        }
        if self.epoch % self.options.evaluate_every == 0 or self.epoch == self.options.epochs:
            metrics |= self.evaluate()
        timing = {
            "epoch_seconds": self.seconds,
            "images_per_second": images / max(self.seconds, 1e-9),
        }
        metrics |= {name: round(value, 4) for name, value in timing.items()}
        if self.device.type == "cuda":
            metrics["peak_memory_mib"] = torch.cuda.max_memory_allocated(self.device) / 2**20
        self.epochs.append(metrics)
        self.epoch += 1
        self.start_epoch()
        return metrics

    @torch.inference_mode()
    def evaluate(self) -> dict[str, float]:
        """Loss, top-1 and top-5 error (%) on the whole test split, every image once, whoever
        evaluates it.
        """
        self.processes.share_buffers(self.model)
        model = self.model.eval()
        top = min(5, self.data.classes)
        mine = self.processes.share(0, len(self.test))
        loss, top1, top5 = (
            torch.zeros((), dtype=torch.float64, device=self.device) for _ in range(3)
        )
        for images, labels in self.test.eval_batches(mine, EVALUATION_BATCH):
            with self._autocast():
                logits = model(images).float()
            hits = logits.topk(top).indices == labels[:, None]
            loss += F.cross_entropy(logits, labels, reduction="sum")
            top1 += hits[:, 0].sum()
            top5 += hits.sum()
        self.model.train()
        sums = self.processes.sums(float(value) for value in (loss, top1, top5))
        loss_mean, top1_share, top5_share = (value / len(self.test) for value in sums)
        return {
            "test_loss": loss_mean,
            "test_top1_error": 100 * (1 - top1_share),
            "test_top5_error": 100 * (1 - top5_share),
        }

    def close(self) -> None:
        """End the processes that read images, where there are any."""
        self.batches = None
        self.train.close()
        self.test.close()

    def state_dict(self) -> dict[str, Any]:
        """All that the rest of the training depends on. Called by every process; complete on the
        first one.
        """
        mine = {
            "method": self.method.state_dict(),
            "generator": json.dumps(self.generator.bit_generator.state),
            "torch_rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(self.device)
            if self.device.type == "cuda"
            else None,
            "sums": self.sums,
            "buffers": dict(
                self.model.named_buffers()
            ),  # each process has its own batch-norm statistics until the next step
        }
        return {
            "trial": self.trial.id,
            "position": [self.epoch, self.step],
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "processes": self.processes.gather(mine),
            "epochs": self.epochs,
            "seconds": self.seconds,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`; TrialError for another trial's, or that of another number
        of processes.
        """
        if state["trial"] != self.trial.id:
            raise TrialError(
                f"the checkpoint is of trial {state['trial']}, not of {self.trial.id}"
            )
        if len(state["processes"]) != self.processes.count:
            raise TrialError(
                f"the checkpoint is of {len(state['processes'])} processes, not of "
                f"{self.processes.count}"
            )
        mine = state["processes"][self.processes.rank]
        self.epoch, self.epochs = state["position"][0], state["epochs"]
        self.start_epoch()
        self.step, self.seconds, self.sums = state["position"][1], state["seconds"], mine["sums"]
        self.model.load_state_dict({**state["model"], **mine["buffers"]})
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.method.load_state_dict(mine["method"])
        self.generator.bit_generator.state = json.loads(mine["generator"])
        torch.set_rng_state(mine["torch_rng"].cpu())
        if self.device.type == "cuda" and mine["cuda_rng"] is not None:
            torch.cuda.set_rng_state(mine["cuda_rng"].cpu(), self.device)
