"""The one training loop: `fit` trains a trial in a run directory, from wherever it was left, and writes result.json at the end.

python -m rm.train TRIAL.json RUN_DIR        # exit status 0 finished, 1 failed, 2 bad input, 75 interrupted (run it again)
"""

import argparse
import functools
import json
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rm import checkpoint
from rm.augment import DeviceImages, draw_views
from rm.backbones import Backbone
from rm.datasets import DataError, load
from rm.ghost_norm import group_batch_norm
from rm.journal import Journal, read
from rm.methods import Method
from rm.options import Trial, TrialError, find, load_trial
from rm.provenance import record_attempt

INTERRUPTED = 75
EVALUATION_BATCH = 500
_PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_STREAMS = {"views": 0, "method": 1}


class Interrupted(Exception):
    """Training stopped where it was told to, after a checkpoint; running the trial again goes on from there."""


class Diverged(RuntimeError):
    """The loss stopped being a finite number."""


def fit(
    trial: Trial,
    run_dir: Path,
    *,
    device: torch.device | None = None,
    stop: Callable[[], bool] = lambda: False,
    checkpoint_seconds: float | None = None,
) -> dict[str, Any]:
    """Train a trial in `run_dir` and return its result, as it stands in result.json.

    stop                 asked before every step; true: checkpoint and raise Interrupted
    checkpoint_seconds   time between periodic checkpoints (default $RM_CHECKPOINT_SECONDS or 300); 0 is every step

    An interrupted or killed run goes on from its newest whole checkpoint and ends with the numbers of an undisturbed one.
    Any error is written to the journal as `failed`, with its traceback, before it is raised.
    """
    finished = run_dir / "result.json"
    if finished.exists():
        result: dict[str, Any] = json.loads(finished.read_text(encoding="utf-8"))
        return result
    every = float(os.environ.get("RM_CHECKPOINT_SECONDS", 300)) if checkpoint_seconds is None else checkpoint_seconds
    with Journal(run_dir / "journal.jsonl") as journal:
        try:
            _same_threads(read(journal.path))
            run = Run(trial, run_dir, device or default_device(), journal)
            record_attempt(run_dir, run.device)
            result = run.to_the_end(stop, every)
        except Interrupted:
            raise
        except Exception as error:
            journal.append("failed", error=f"{type(error).__name__}: {error}", traceback=traceback.format_exc())
            raise
        checkpoint.write_atomically(finished, json.dumps(result, indent=1))
        journal.append("finished", **result["metrics"])
        (run_dir / "checkpoint.prev.pt").unlink(missing_ok=True)
        return result


def default_device() -> torch.device:
    """The first GPU that CUDA_VISIBLE_DEVICES leaves, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _same_threads(events: list[dict[str, Any]]) -> None:
    """Sums on a CPU depend on the number of threads: a resumed run keeps the number it began with."""
    begun = next((e["threads"] for e in events if e["event"] == "started"), None)
    if begun is not None:
        torch.set_num_threads(begun)


class Run:
    """Everything that a training step reads or changes, and how it goes to disk and back."""

    def __init__(self, trial: Trial, run_dir: Path, device: torch.device, journal: Journal) -> None:
        self.trial, self.run_dir, self.device, self.journal = trial, run_dir, device, journal
        self.options = trial.train
        limits = {key: trial.choices["dataset"][key] for key in ("limit", "test_limit")}
        others = {key: value for key, value in trial.options("dataset").items() if key not in limits}
        self.data = load(trial.name("dataset"), others, **limits)
        self.train = DeviceImages(self.data.train, self.data.padding, self.data.mean, self.data.std, device)
        self.test = DeviceImages(self.data.test, 0, self.data.mean, self.data.std, device)
        self.method: Method = find("method", trial.name("method"))(**trial.options("method"))
        self.model = self._build_model()
        self.optimizer: torch.optim.Optimizer = find("optimizer", trial.name("optimizer"))(
            self.model, **trial.options("optimizer")
        )
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.options.precision == "fp16")
        schedule = find("schedule", trial.name("schedule"))
        self.factor = functools.partial(schedule, **trial.options("schedule"))
        self.forward: torch.nn.Module = torch.compile(self.model) if self.options.compile else self.model  # type: ignore[assignment]
        self.epoch, self.step = 1, 0
        self.epochs: list[dict[str, Any]] = []
        self.sums: dict[str, Any] = {}
        self.bad_step = torch.tensor(-1, device=device)
        self.seconds = 0.0

    def _build_model(self) -> torch.nn.Module:
        torch.manual_seed(self.trial.seed)  # every method starts from the same backbone weights
        backbone: Backbone = find("backbone", self.trial.name("backbone"))(
            self.data.classes, self.data.channels, **self.trial.options("backbone")
        )
        model = self.method.network(backbone)
        group_batch_norm(model, self.options.batch_norm_groups)
        layout = torch.channels_last if self.options.channels_last else torch.contiguous_format
        return model.to(self.device).to(memory_format=layout)

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.train) // self.options.batch_size)

    def to_the_end(self, stop: Callable[[], bool], every: float) -> dict[str, Any]:
        """Train the remaining epochs and return the result."""
        saved = checkpoint.load(self.run_dir, self.device)
        if saved is None:
            self.journal.append(
                "started", epochs=self.options.epochs, threads=torch.get_num_threads(), device=str(self.device)
            )
            self._start_epoch()
        else:
            self.load_state_dict(saved)
            self.journal.append("resumed", epoch=self.epoch, step=self.step)
            self._journal_what_was_lost()
        last_save = time.monotonic()
        while self.epoch <= self.options.epochs:
            views = draw_views(len(self.train), self.data.padding, self.data.flip, self._rng("views"), self.device)
            began = time.monotonic()
            while self.step < self.steps_per_epoch:
                if stop():
                    self.seconds += time.monotonic() - began
                    self._interrupt()
                if time.monotonic() - last_save >= every:
                    self.seconds += time.monotonic() - began
                    self.save()
                    began = last_save = time.monotonic()
                positions = slice(self.step * self.options.batch_size, (self.step + 1) * self.options.batch_size)
                self._step(*self.train.batch(views, positions))
                self.step += 1
            self._check_finite()
            self.seconds += time.monotonic() - began
            self._end_epoch()
        self.save()
        return self._result()

    def _step(self, images: Tensor, labels: Tensor) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr
        if not self.options.channels_last:
            images = images.contiguous()
        with self._autocast():
            loss, logits = self.method.loss(self.forward, images, self._targets(labels), self.generator)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        for parameter in self.model.parameters():
            if parameter.grad is None:
                # No part in this step (RM's second head in a plain one). Gradient zero, so that momentum and weight decay
                # go on, as in the released code, where zero_grad() left zeros.
                parameter.grad = torch.zeros_like(parameter)
        if self.options.clip_norm:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.options.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        with torch.no_grad():  # read once an epoch: no step waits for the device
            loss = loss.detach()
            self.bad_step = torch.where(torch.isfinite(loss) | (self.bad_step >= 0), self.bad_step, self.step)
            wrong = (logits.detach().argmax(1) != labels).sum()
            self._add(images=len(labels), train_loss=loss.double() * len(labels), train_top1_error=wrong)
            self._add(**{name: value * len(labels) for name, value in self.method.observed.items()})

    def _targets(self, labels: Tensor) -> Tensor:
        """(B,) -> (B, K) one-hot, smoothed by epsilon/(K-1) on the other classes."""
        targets = F.one_hot(labels, self.data.classes).float()
        smoothing = self.options.label_smoothing
        if smoothing:
            targets = targets * (1 - smoothing - smoothing / (self.data.classes - 1)) + smoothing / (
                self.data.classes - 1
            )
        return targets

    def _autocast(self) -> torch.autocast:
        precision = self.options.precision
        return torch.autocast(self.device.type, _PRECISIONS[precision], enabled=precision != "fp32")

    def _add(self, **values: Any) -> None:
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0) + value

    def _rng(self, stream: str) -> np.random.Generator:
        return np.random.default_rng([self.trial.seed, self.epoch, _STREAMS[stream]])

    @property
    def lr(self) -> float:
        base = float(self.trial.choices["optimizer"]["lr"])
        return base * float(self.factor(min(self.epoch, self.options.epochs), self.options.epochs))

    def _start_epoch(self) -> None:
        self.step, self.seconds, self.sums = 0, 0.0, {}
        self.generator = self._rng("method")
        self.method.start_epoch()

    def _end_epoch(self) -> None:
        sums = {name: float(value) for name, value in self.sums.items()}
        images = sums.pop("images")
        metrics = {name: value / images for name, value in sums.items()}
        metrics["train_top1_error"] *= 100
        self.epochs.append({"epoch": self.epoch, "lr": self.lr, **metrics, **self.evaluate()})
        timing = {"epoch_seconds": self.seconds, "images_per_second": images / max(self.seconds, 1e-9)}
        self.epochs[-1] |= {name: round(value, 4) for name, value in timing.items()}
        if self.device.type == "cuda":
            self.epochs[-1]["peak_memory_mib"] = torch.cuda.max_memory_allocated(self.device) / 2**20
        self.journal.append("epoch", durable=False, **self.epochs[-1])
        self.epoch += 1
        self._start_epoch()

    @torch.inference_mode()
    def evaluate(self) -> dict[str, float]:
        """Loss, top-1 and top-5 error (%) on the whole test split."""
        model = self.model.eval()
        top = min(5, self.data.classes)
        loss, top1, top5 = (torch.zeros((), dtype=torch.float64, device=self.device) for _ in range(3))
        for start in range(0, len(self.test), EVALUATION_BATCH):
            images, labels = self.test.plain(slice(start, start + EVALUATION_BATCH))
            with self._autocast():
                logits = model(images).float()
            hits = logits.topk(top).indices == labels[:, None]
            loss += F.cross_entropy(logits, labels, reduction="sum")
            top1 += hits[:, 0].sum()
            top5 += hits.sum()
        self.model.train()
        count = len(self.test)
        return {
            "test_loss": float(loss) / count,
            "test_top1_error": 100 * (1 - float(top1) / count),
            "test_top5_error": 100 * (1 - float(top5) / count),
        }

    def _check_finite(self) -> None:
        bad = int(self.bad_step)
        if bad >= 0:
            held = [name for name in ("checkpoint.pt", "checkpoint.prev.pt") if (self.run_dir / name).exists()]
            raise Diverged(
                f"the loss is not finite at step {bad} of epoch {self.epoch} (lr {self.lr:g}); last good checkpoint: "
                f"{self.run_dir / held[0] if held else 'none yet'}"
            )

    def _interrupt(self) -> None:
        self.save()
        self.journal.append("interrupted", epoch=self.epoch, step=self.step)
        raise Interrupted(f"stopped in epoch {self.epoch} of {self.options.epochs}, before step {self.step + 1}")

    def save(self) -> None:
        """Write a checkpoint; a diverged state never replaces a good one."""
        self._check_finite()
        checkpoint.save(self.run_dir, self.state_dict())
        self.journal.append("checkpoint", epoch=self.epoch, step=self.step)

    def state_dict(self) -> dict[str, Any]:
        return {
            "trial": self.trial.id,
            "position": [self.epoch, self.step],
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "method": self.method.state_dict(),
            "generator": json.dumps(self.generator.bit_generator.state),
            "torch_rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
            "sums": self.sums,
            "epochs": self.epochs,
            "seconds": self.seconds,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["trial"] != self.trial.id:
            raise TrialError(f"{self.run_dir} holds a checkpoint of trial {state['trial']}, not of {self.trial.id}")
        self.epoch, self.step = state["position"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.method.load_state_dict(state["method"])
        self.generator = self._rng("method")
        self.generator.bit_generator.state = json.loads(state["generator"])
        torch.set_rng_state(state["torch_rng"].cpu())
        if self.device.type == "cuda" and state["cuda_rng"] is not None:
            torch.cuda.set_rng_state(state["cuda_rng"].cpu(), self.device)
        self.sums, self.epochs, self.seconds = state["sums"], state["epochs"], state["seconds"]

    def _journal_what_was_lost(self) -> None:
        """A power cut can take the newest epoch events with it; the checkpoint still knows them."""
        known = {event["epoch"] for event in read(self.journal.path) if event["event"] == "epoch"}
        for metrics in self.epochs:
            if metrics["epoch"] not in known:
                self.journal.append("epoch", durable=False, **metrics)

    def _result(self) -> dict[str, Any]:
        metrics: dict[str, float] = {}
        for name in ("top1_error", "top5_error"):
            values = [epoch[f"test_{name}"] for epoch in self.epochs]
            metrics |= {
                f"best_{name}": min(values),
                f"last_{name}": values[-1],
                f"median_last_10_{name}": median(values[-10:]),
            }
        metrics["best_epoch"] = min(self.epochs, key=lambda epoch: epoch["test_top1_error"])["epoch"]
        return {
            "id": self.trial.id,
            "seed": self.trial.seed,
            "metrics": metrics,
            "epochs": self.options.epochs,
            "train_seconds": sum(epoch["epoch_seconds"] for epoch in self.epochs),
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "test_images": len(self.test),
        }


def main(arguments: list[str] | None = None) -> int:
    """The command `python -m rm.train`."""
    parser = argparse.ArgumentParser(prog="python -m rm.train", description="Train one trial in one run directory.")
    parser.add_argument("trial", type=Path, metavar="TRIAL.json")
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    parser.add_argument(
        "--device", type=torch.device, default=None, help="cuda, cuda:1, cpu; default: a GPU if there is one"
    )
    parser.add_argument("--checkpoint-seconds", type=float, default=None, help="default: $RM_CHECKPOINT_SECONDS or 300")
    given = parser.parse_args(arguments)
    stopped: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: stopped.append(number))
    try:
        trial = load_trial(given.trial)
        given.run_dir.mkdir(parents=True, exist_ok=True)
        if given.trial.resolve() != (given.run_dir / "trial.json").resolve():
            shutil.copyfile(given.trial, given.run_dir / "trial.json")
        result = fit(
            trial,
            given.run_dir,
            device=given.device,
            stop=lambda: bool(stopped),
            checkpoint_seconds=given.checkpoint_seconds,
        )
    except TrialError as error:
        print(error, file=sys.stderr)
        return 2
    except Interrupted as error:
        print(f"{error}; run the same command again to go on", file=sys.stderr)
        return INTERRUPTED
    except (DataError, Diverged, checkpoint.CheckpointError) as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(result["metrics"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
