"""Training methods: one file each, `rm/methods/<name>.py`, with one public class, a Method; its
keyword-only parameters are the options that a spec can set.

A method that mixes images defines `mix`; one that mixes inside the network `show`; one that acts
elsewhere `loss`. What it keeps between steps (buffers, momentum copies, extra state) is saved with
the rest of the training. Contrastive training asks for `contrast`, which needs no more than `mix`
or `show`; a method that cannot be asked, or knows nothing else, says so: TASKS = ("contrastive",).
"""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rm.backbones import Backbone
from rm.distributed import ProcessGroup
from rm.graph import Prepared
from rm.input.views import TwoViews
from rm.methods._moco import Contrast, Judge, MoCo
from rm.ops import soft_cross_entropy
from rm.optimizers import ParameterGroup
from rm.schedules import StepContext


class Mixed(NamedTuple):
    """A batch as the network is shown it.

    images    (B, C, H, W)
    targets   (B, K)
    partner   (B,) which image of the batch was mixed into each; None: none of this batch was
    area      share of the partner in the targets, one number or (B,)
    logs      name -> scalar for the epoch's metrics, the same names at every step
    """

    images: Tensor
    targets: Tensor
    partner: Tensor | None = None
    area: float | Tensor = 0.0
    logs: Mapping[str, Tensor | float] = {}


class MethodOutput(NamedTuple):
    """The scalar loss, the logits (B, K) for the training error, the batch that was shown, and
    scalars for the epoch's metrics, the same names at every step.
    """

    loss: Tensor
    logits: Tensor
    mixed: Mixed
    logs: Mapping[str, Tensor | float]


class TrainingPictures(NamedTuple):
    """What a method may know of all pictures that it will be shown.

    labels   (N,)
    shown    called: all as they are, (B, C, H, W) at a time, in order
    group    the processes that train together
    """

    labels: Tensor
    shown: Callable[[], Iterator[Tensor]]
    group: ProcessGroup


class Method(nn.Module):
    """What a training step does with a batch, from images to loss."""

    ZERO_GRADIENTS = False
    """Whether parameters that took no part in a step get a gradient of zero, once they have had
    one, so that momentum and weight decay go on, as where zero_grad() leaves zeros; else they stay
    as they are.
    """
    MIXES = True
    """Whether it changes what the network is shown."""

    def wrap_model(self, backbone: Backbone) -> nn.Module:
        """The network to train: the backbone itself, unless the method needs more parameters. In
        evaluation it returns logits (B, K), or {head: logits} with the primary head first.
        """
        return backbone

    @property
    def needs_places(self) -> bool:
        """Whether its steps have to know which pictures they show: `StepContext.places`."""
        return False

    def introduce(self, model: nn.Module, pictures: TrainingPictures) -> None:
        """Add what it needs to know of all pictures, before a supervised training."""

    def deployed(self, model: nn.Module) -> Backbone:
        """What of `wrap_model`'s network is used after training."""
        backbone = getattr(model, "backbone", model)
        if not isinstance(backbone, Backbone):
            raise TypeError(
                f"{type(self).__name__} trains a {type(model).__name__}, which has no backbone: "
                "it has to say what is deployed"
            )
        return backbone

    def parameter_groups(self, model: nn.Module) -> list[ParameterGroup]:
        """Groups with learning rates of their own; of the method's parameters too, if it has
        any.
        """
        parameters = list(model.parameters())
        known = set(map(id, parameters))
        own = [p for p in self.parameters() if id(p) not in known]
        return [ParameterGroup([*parameters, *own])]

    def start_epoch(self) -> None:
        """Called before the first step of each epoch (not when resuming inside one)."""

    def mix(
        self, images: Tensor, targets: Tensor, step: StepContext, model: nn.Module | None = None
    ) -> Mixed:
        """Mix a batch, for a task of any kind.

        images   (B, C, H, W)   left unchanged, as the targets are
        targets  (B, K)
        model    (images) -> logits, for methods that look at what the network sees
        """
        raise NotImplementedError(f"{type(self).__name__} does not mix images: it has no mix()")

    def show(
        self,
        model: Callable[[Tensor], Tensor],
        images: Tensor,
        targets: Tensor,
        step: StepContext,
        judge: nn.Module | None = None,
    ) -> tuple[Tensor, Mixed]:
        """What a network makes of the mixed batch, and that batch. Arguments as of `mix`.

        judge   (images) -> logits (B, K), where those are not what `model` gives
        """
        if judge is None and isinstance(model, nn.Module):
            judge = model
        mixed = self.mix(images, targets, step, judge)
        return model(mixed.images), mixed

    def loss(
        self, model: nn.Module, images: Tensor, targets: Tensor, step: StepContext
    ) -> MethodOutput:
        """images (B, C, H, W), targets (B, K) -> loss, logits and what was shown."""
        logits, mixed = self.show(model, images, targets, step)
        return MethodOutput(soft_cross_entropy(logits, mixed.targets), logits, mixed, mixed.logs)

    def forward(
        self, model: nn.Module, images: Tensor, targets: Tensor, step: StepContext
    ) -> MethodOutput:
        """`loss`, as a call that forward hooks can watch."""
        return self.loss(model, images, targets, step)

    @property
    def has_fixed_shapes(self) -> bool:
        """Whether `prepare` and `compute` split its step, so that a GPU can replay it. Those of
        methods that do no more than `mix` are here; one with a `loss` or `show` of its own
        defines both, or says in TOGETHER that `train.cuda_graph` is not for it.
        """
        own = type(self)
        inherits = own.loss is Method.loss and own.show is Method.show
        return inherits or own.compute is not Method.compute

    def prepare(
        self, model: nn.Module, images: Tensor, targets: Tensor, step: StepContext
    ) -> Prepared | None:
        """`loss` up to the batch that the network is shown; None, with nothing drawn yet, for a
        step that `loss` has to take.
        """
        mixed = self.mix(images, targets, step, model)
        shown = {"images": mixed.images, "targets": mixed.targets}
        return Prepared("mixed", shown, mixed.logs, len(images))

    def compute(self, model: nn.Module, kind: str, tensors: Mapping[str, Tensor]) -> MethodOutput:
        """The rest of `loss`, by the same operators for all steps of a kind, with no number but
        those in the tensors.
        """
        mixed = Mixed(tensors["images"], tensors["targets"])
        logits = model(mixed.images)
        return MethodOutput(soft_cross_entropy(logits, mixed.targets), logits, mixed, {})

    def remember(self, logits: Tensor) -> None:
        """Called after such a step with the logits (B, K)."""

    def attach(self, network: MoCo, labels: Tensor) -> None:
        """Add what it needs to a contrastive network, which is to be shown pictures of these
        labels, (N,), each -1 where there are none.
        """
        self.wrap_model(network.online)

    def contrast(self, network: MoCo, views: TwoViews, step: StepContext) -> Contrast:
        """The loss of a contrastive step: NCE(q, its key) and, of the mixed images m, the sum over
        the images j in m of their shares times NCE(m, key of j), both with weight 1.

        Mixed are the first views, keys are of the second ones; without `cross_view` those of the
        mixed images are of the first ones too. Each image is a class of its own, so that any
        mixture of labels says what an image is made of.
        """
        keys = network.keys(views.key, step)
        clean = network.nce(network.query(views.query), keys)
        if not self.MIXES:
            return Contrast(clean, keys, {"clean_loss": clean.detach()})
        cross = network.settings.cross_view
        own = keys if cross else network.keys(views.query, step)
        classes = torch.eye(len(keys), device=keys.device, dtype=views.query.dtype)
        found, mixed = self.show(network.query, views.query, classes, step, Judge(network, own))
        loss = network.nce(found, own, mixed.targets)
        logs = {"clean_loss": clean.detach(), "mix_loss": loss.detach(), **mixed.logs}
        return Contrast(clean + loss, keys, logs)

    def after_step(self, model: nn.Module, step: StepContext) -> None:
        """Called after the optimizer's step."""


def draw_partner(images: Tensor, generator: np.random.Generator, groups: int = 1) -> Tensor:
    """A permutation of the batch, (B,), on its device; for `groups` see `partner_in_parts`."""
    return partner_in_parts(generator.permutation(-(-len(images) // groups)), images, groups)


def partner_in_parts(order: NDArray[np.int64], images: Tensor, groups: int) -> Tensor:
    """(B,) on the device of the images: one permutation within each of so many parts of the batch,
    as devices that draw alike and see one part each would have it.

    order   (ceil(B / groups),); what a smaller part lacks is left out of it
    """
    parts = np.array_split(np.arange(len(images)), groups)
    whole = np.concatenate([part[order[order < len(part)]] for part in parts])
    return torch.from_numpy(whole).to(images.device, non_blocking=True)
