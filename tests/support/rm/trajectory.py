"""The trainer itself, recorded, and the same steps by the reference (reference.py)."""

import copy
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from rm.trainer import Trainer
from rm.trial import parse_trial
from tests.support.rm.reference import ReferenceTraining, Settings, Step

EPOCHS, STEPS = 2, 20  # nine batches of 8 and one of 2 in each epoch, so that `[:batch]` is needed
IMAGES, BATCH, CLASSES = 74, 8, 10


@dataclass
class Recording:
    """What a run was fed in each epoch, what its steps showed, and its model before and after."""

    initial: nn.Module
    final: nn.Module
    batches: dict[int, list] = field(
        default_factory=lambda: {epoch: [] for epoch in range(1, EPOCHS + 1)}
    )
    steps: list[Step] = field(default_factory=list)


def record(trial, dtype=torch.float32, prepare=lambda model: None, pool=None):
    """Step the trainer itself through two epochs. `prepare` may change the model; `pool` (N, C,
    H, W) replaces the images.
    """
    trainer = Trainer(parse_trial(trial), torch.device("cpu"))
    task = trainer.task
    prepare(task.model.to(dtype))
    for state in trainer.optimizer.state.values():
        state["momentum_buffer"] = state["momentum_buffer"].to(dtype)
    recording = Recording(copy.deepcopy(task.model), task.model)
    real_batch, real_targets = task.images.batch, task._targets

    def batch(views, positions):
        images, labels = real_batch(views, positions)
        images = images.to(dtype) if pool is None else pool[views.index[positions]]
        recording.batches[trainer.epoch].append((images.clone(), labels))
        return images, labels

    def watch(method, inputs, output):
        area = output.logs.get("area", 0.0)
        recording.steps.append(Step(output.loss.item(), area, output.logits.detach().clone()))

    task.images.batch = batch
    task.method.register_forward_hook(watch)
    task._targets = lambda labels: real_targets(labels).to(dtype)
    if dtype != torch.float32:
        trainer.evaluate = dict  # it would show the model the data set's images, which are fp32
    for _ in range(EPOCHS):
        for _ in range(trainer.steps_per_epoch):
            trainer.train_step()
        trainer.end_epoch()
    return recording


def train_reference(trial, recording):
    """The recorded batches from the recorded weights, by the reference: its steps and its
    model.
    """
    method, optimizer = trial["method"], trial["optimizer"]
    settings = Settings(
        classes=CLASSES,
        alpha=method["alpha"],
        omega=method["omega"],
        lr=optimizer["lr"],
        epochs=trial["train"]["epochs"],
        warmup_epochs=trial["schedule"]["warmup_epochs"],
        weight_decay=optimizer["weight_decay"],
        label_smoothing=trial["train"].get("label_smoothing", 0.0),
        interpolation=method.get("interpolation", "nearest"),
        transposed=method.get("roi") == "transposed",
    )
    model = copy.deepcopy(recording.initial)
    network, second_head = getattr(model, "backbone", model), getattr(model, "second_head", None)
    training = ReferenceTraining(network, second_head, settings, trial["seed"])
    steps = []
    for epoch, batches in recording.batches.items():
        training.start_epoch(epoch)
        steps += [training.step(images, labels) for images, labels in batches]
    return steps, model


def differences(trial, recording):
    """Largest difference of losses (relative above 1), of logits, and of final weights and
    batch-norm statistics.
    """
    steps, model = train_reference(trial, recording)
    assert [step.area for step in recording.steps] == [step.area for step in steps]
    ours, theirs = recording.final.state_dict(), model.state_dict()
    assert ours.keys() == theirs.keys()
    pairs = list(zip(recording.steps, steps, strict=True))
    assert len(pairs) == STEPS
    found = {
        "loss": [abs(a.loss - b.loss) / max(1, abs(b.loss)) for a, b in pairs],
        "logits": [(a.logits - b.logits).abs().max().item() for a, b in pairs],
        "weights": [(ours[name] - theirs[name]).abs().max().item() for name in ours],
    }
    return {
        name: float(np.max(values)) for name, values in found.items()
    }  # numpy's max, as it keeps a NaN


def without_kinks(model):
    """SiLU for ReLU. Where a ReLU's input is zero but for rounding, two correct fp32 trainings
    take different gradients and part
    (seen: -3e-7 against +9e-9 in the third step, losses 4e-2 apart after twenty); in float64 that
    does not happen."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, nn.SiLU())
