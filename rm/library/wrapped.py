"""`rm.wrap(model)`: a method of this project around anybody's classifier, for one's own loop."""

from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from rm import registry
from rm.library.foreign import ForeignModel
from rm.methods import Method, MethodOutput
from rm.schedules import Progress, StepContext


class Wrapped(nn.Module):
    """In training `wrapped(images, labels)` is the loss; the model inside stays the one it was
    made of, and is what is evaluated, saved and deployed.

        training = rm.wrap(model, alpha=0.5, omega=0.1)
        optimizer = torch.optim.SGD(training.parameters(), lr=0.1, momentum=0.9)
        for epoch in range(epochs):
            training.start_epoch()
            for images, labels in loader:
                loss = training(images, labels)
                optimizer.zero_grad(set_to_none=False)
                loss.backward()
                optimizer.step()

    The second head is a parameter of this module and not of the model, so the optimizer is given
    `training.parameters()`. It takes no part in a step that mixes nothing: with
    `zero_grad(set_to_none=False)` momentum and weight decay go on for it there, as in the released
    code; where gradients are set to None the optimizer leaves it alone. `state_dict()` holds the
    previous batch and the random generator too: a loop resumed from it goes on as if it had not
    been interrupted. For several processes it goes inside DistributedDataParallel
    (find_unused_parameters=True), with the same seed in each: they draw the same boxes.

    last   of the newest step: loss, logits, the mixed images and targets, detached
    """

    last: MethodOutput | None = None

    def __init__(self, model: ForeignModel, method: Method, seed: int) -> None:
        super().__init__()
        network = method.wrap_model(model)
        if method.deployed(network) is not model:
            raise ValueError(
                f"method '{type(method).__name__}' deploys another network than the one it "
                "trains, and so needs a spec"
            )
        self.network = network.to(model.head.weight.device, model.head.weight.dtype)
        self.method = method
        self.backbone: list[ForeignModel] = [model]  # a view: the network has it as a module
        self.seed, self.epoch = seed, 0
        self.generator = np.random.default_rng((seed, 0))

    @property
    def model(self) -> nn.Module:
        """The classifier that was wrapped."""
        return self.backbone[0].model

    @property
    def classes(self) -> int:
        return self.backbone[0].head.out_features

    def start_epoch(self) -> None:
        """Before the first step of each epoch: RecursiveMix forgets the last one's batch."""
        self.epoch += 1
        self.generator = np.random.default_rng((self.seed, self.epoch))
        self.method.start_epoch()

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """images (B, C, H, W), labels (B,) whole numbers or (B, K) probabilities -> the loss, a
        scalar; without labels the model's logits (B, K).
        """
        if labels is None:
            logits: Tensor = self.model(images)
            return logits
        targets = self._targets(labels, len(images))
        context = StepContext(self.generator, Progress(epoch=max(self.epoch, 1)))
        output: MethodOutput = self.method(self.network, images, targets, context)
        loss, logits = output.loss, output.logits
        self.last = output._replace(loss=loss.detach(), logits=logits.detach())
        return output.loss

    def _targets(self, labels: Tensor, count: int) -> Tensor:
        classes = self.classes
        if labels.shape == (count,) and not labels.is_floating_point():
            one_hot: Tensor = F.one_hot(labels.long(), classes)
            return one_hot.to(self.backbone[0].head.weight.dtype)
        if labels.shape == (count, classes) and labels.is_floating_point():
            return labels
        raise ValueError(
            f"labels are ({count},) whole numbers or ({count}, {classes}) probabilities; found "
            f"{tuple(labels.shape)} of {str(labels.dtype).removeprefix('torch.')}"
        )

    def get_extra_state(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "generator": self.generator.bit_generator.state}

    def set_extra_state(self, state: Any) -> None:
        self.epoch = state["epoch"]
        self.generator.bit_generator.state = state["generator"]


def wrap(
    model: nn.Module,
    method: str = "recursive_mix",
    *,
    seed: int = 0,
    head: str | None = None,
    features: str | None = None,
    **options: Any,
) -> Wrapped:
    """A classifier with a method around it, to be trained in any loop: `Wrapped`.

    model      (B, C, H, W) -> logits (B, K), on its device already; of torchvision, timm, or one's
               own. It is not changed
    method     a file of rm/methods; those that act inside a network need this project's backbones
    options    the method's, as in a spec: alpha=0.5, omega=0.1
    seed       of boxes, areas and permutations
    head, features   names of the model's classifier and of the module with its last map, where
               they are not found by themselves

    ValueError for a method or an option that is not there, or out of range.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"rm.wrap takes an nn.Module, found {type(model).__name__}")
    values, wrong = registry.check("method", {"name": method, **options})
    if wrong:
        raise ValueError("; ".join(violation.message for violation in wrong))
    tasks = registry.entry("method", method).tasks
    if tasks and registry.DEFAULT_TASK not in tasks:
        raise ValueError(f"method '{method}' is for {', '.join(tasks)} training, by a spec")
    if needed := registry.entry("method", method).features:
        raise ValueError(
            f"method '{method}' acts inside a network, on its {' and '.join(sorted(needed))}: it "
            "needs a backbone of rm/backbones, and so a spec"
        )
    del values["name"]
    built: Method = registry.load("method", method)(**values)
    return Wrapped(ForeignModel(model, head, features), built, seed)
