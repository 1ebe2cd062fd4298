"""Networks: one file per family, one function per network; the function's name is its name in a
spec.

A network function is `name(num_classes, in_channels, *, option=default, ...) -> Backbone`. The
training loop supplies the two positional arguments, the spec the keyword-only ones.

A file's `FEATURES` names what methods can reach inside its networks: "stem" and "stages"
(`named_stages`), "residual branches" (`residual_branches`); a tuple for all of them, or a mapping
name: tuple. A method's `REQUIRES_FEATURES` is checked against it when a spec is planned.
"""

import contextlib
import copy
import functools
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Self

import torch
from torch import Tensor, nn


class Backbone(nn.Module):
    """A classifier that shows its last feature map, so that region losses are written once for
    every network.

    A subclass sets `num_features` (C), `head` (nn.Linear, C -> K) and defines `features`.
    """

    num_features: int
    head: nn.Linear
    has_map: bool = True
    """Whether `features` is a map (B, C, h, w), as region losses need it, or something else."""
    frozen: bool = False

    @property
    def title(self) -> str:
        """Its name in a sentence."""
        return type(self).__name__

    def features(self, images: Tensor) -> Tensor:
        """images (B, in_channels, H, W) -> last feature map before pooling (B, C, h, w)."""
        raise NotImplementedError(f"{type(self).__name__} does not define features()")

    def named_stages(self) -> dict[str, nn.Module]:
        """ "stem", "stage1", "stage2", ... in order -> the module whose output (B, C, h, w) is
        that stage's feature map.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define named_stages()")

    def residual_branches(self) -> list[nn.Module]:
        """First to last, the modules whose output is added to a shortcut."""
        raise NotImplementedError(f"{type(self).__name__} does not define residual_branches()")

    def pool(self, features: Tensor) -> Tensor:
        """Global average pool: (B, C, h, w) -> (B, C)."""
        return features.mean((2, 3))

    def pool_region(self, region: Tensor) -> Tensor:
        """What the head reads of one region of the map: (B, C) -> (B, C)."""
        return region

    def plain_name(self, name: str) -> str:
        """The name in the deployed weights of an entry of the state dict: that of the library that
        the architecture comes from, if it comes from one.
        """
        return name

    def plain_state_dict(self) -> dict[str, Tensor]:
        """The deployed weights, under their plain names."""
        return {self.plain_name(name): value for name, value in self.state_dict().items()}

    def freeze(self) -> None:
        """Keep everything but the head as it is: no gradients; `train` leaves it in evaluation
        mode, so that batch norms keep their statistics.
        """
        self.frozen = True
        self.requires_grad_(False)
        self.head.requires_grad_(True)
        self.train(self.training)

    def compile_features(self) -> None:
        """Compile the features alone: their shapes never change, whatever box a method draws."""
        self.features = torch.compile(self.features)  # type: ignore[method-assign]

    def twin(self) -> Self:
        """A copy with parameters of its own, compiled if this one is."""
        compiled = self.__dict__.pop("features", None)  # bound to this network, not to the copy
        copied = copy.deepcopy(self)
        if compiled is not None:
            self.features = compiled  # type: ignore[method-assign]
            copied.compile_features()
        return copied

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.frozen:
            for module in self.children():
                module.train(mode and module is self.head)
        return self

    def forward(self, images: Tensor) -> Tensor:
        """images (B, in_channels, H, W) -> logits (B, K)."""
        logits: Tensor = self.head(self.pool(self.features(images)))
        return logits


Change = Callable[[str, Tensor], Tensor]
"""(name, output of the module of that name) -> what the network goes on with; never in place."""


class FeatureHooks:
    """Forward hooks through which a method changes what modules inside a network put out, and only
    while it says so.

    hooks = FeatureHooks(backbone.named_stages())       in Method.wrap_model
    with hooks.active(change):                in Method.loss; modules in evaluation mode stay as
    they are
        logits = model(images)
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self._open = False
        self._change: Change | None = None
        self._run: Change = self._changed
        if (
            "torch._dynamo" in sys.modules
        ):  # else nothing is compiled, and the import would take seconds
            # Each step brings another `change` and its random numbers: nothing to trace, or it
            # would be traced every time.
            self._run = torch.compiler.disable(self._changed)  # type: ignore[no-untyped-call]
        for name, module in modules.items():
            module.register_forward_hook(functools.partial(self._hook, name))

    @contextlib.contextmanager
    def active(self, change: Change) -> Iterator[None]:
        """Until the block ends, pass the modules' outputs through `change`."""
        self._open, self._change = True, change
        try:
            yield
        finally:
            self._open, self._change = False, None

    def _hook(
        self, name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor
    ) -> Tensor | None:
        return self._run(name, output) if self._open and module.training else None

    def _changed(self, name: str, output: Tensor) -> Tensor:
        return output if self._change is None else self._change(name, output)
