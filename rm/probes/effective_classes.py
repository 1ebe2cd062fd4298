"""How many classes one training label holds: the paper's Fig. 7, from a method's own draws.
Nothing is trained or read from disk.

Labels are drawn uniformly over the classes (ImageNet's are nearly uniform), images are blank. The
mixed label is read off the loss itself, whatever the method does inside: for a soft cross-entropy,
d loss / d logits = (softmax(logits) - label) / B.
"""

from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rm import registry
from rm.backbones import Backbone
from rm.methods import Method
from rm.probes import ProbeLogger
from rm.schedules import StepContext
from rm.trial import Trial, TrialError

METRIC = {"label": "effective classes", "unit": "", "better": "lower"}
USES = ("method", "train")

CURVE = [10 ** (step / 4 - 8) for step in range(32)]
"""Thresholds from 1e-8 to 0.56, four a decade."""


def effective_classes(
    trial: Trial,
    device: torch.device,
    log: ProbeLogger,
    *,
    iterations: Annotated[int, "iterations >= 1"] = 100,
    threshold: Annotated[float, "0 < threshold < 1"] = 1e-4,
    classes: Annotated[int, "classes >= 2"] = 1000,
    size: Annotated[int, "size >= 2"] = 224,
) -> dict[str, float]:
    """Classes whose share of a label exceeds `threshold`, mean over all labels of `iterations`
    steps.

    Points: threshold and effective_classes along CURVE.
    """
    method: Method = registry.load("method", trial.name("method"))(**trial.options("method"))
    try:
        model = method.wrap_model(_Blank(classes)).double().to(device)
    except NotImplementedError:
        raise TrialError(
            f"effective_classes shows blank images to a blank network; {trial.name('method')} "
            "acts inside one"
        ) from None
    generator = np.random.default_rng([trial.seed, 1])
    method.start_epoch()
    thresholds = torch.tensor([*CURVE, threshold], dtype=torch.float64, device=device)
    counted = torch.zeros_like(thresholds)
    for _ in range(iterations):
        log.raise_if_stopped()
        labels = torch.from_numpy(generator.integers(classes, size=trial.train.batch_size)).to(
            device
        )
        counted += _effective(
            _mixed_labels(method, model, labels, classes, size, generator), thresholds
        )
    mean = (counted / iterations).tolist()
    for at, value in zip(CURVE, mean, strict=False):
        log.log_point(threshold=at, effective_classes=value)
    return {"effective_classes": mean[-1]}


def _effective(labels: Tensor, thresholds: Tensor) -> Tensor:
    """labels (B, K), thresholds (T,) -> (T,): how many classes of a label exceed each threshold,
    mean over the labels.
    """
    return torch.stack([(labels > each).sum(1).double().mean() for each in thresholds])


def _mixed_labels(
    method: Method,
    model: nn.Module,
    labels: Tensor,
    classes: int,
    size: int,
    generator: np.random.Generator,
) -> Tensor:
    """One step of the method on blank images with these labels (B,): the labels (B, K) that its
    loss uses, float64.
    """
    count = len(labels)
    images = torch.zeros(1, 1, 1, 1, device=labels.device).expand(count, 1, size, size)
    targets = F.one_hot(labels, classes).double()
    output = method(model, images, targets, StepContext(generator))
    (gradient,) = torch.autograd.grad(output.loss, output.logits)
    labels_used: Tensor = output.logits.detach().softmax(1) - count * gradient
    return labels_used


class _Blank(Backbone):
    """A network that sees nothing and says nothing: every logit is 0."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.num_features = 1
        self.head = nn.Linear(1, classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def features(self, images: Tensor) -> Tensor:
        return images.new_zeros(len(images), 1, 7, 7, dtype=torch.float64)
