"""Somebody's classifier (torchvision's, timm's, one's own) as a Backbone, left as it is: hooks
read its last map and what its linear classifier is given.
"""

import math
from typing import Any, cast

from torch import Tensor, nn

from rm.backbones import Backbone

Outputs = list[tuple[str, Tensor]]


class ForeignModel(Backbone):
    """A classifier (B, C, H, W) -> (B, K) whose last linear layer is its head.

    model      keeps its names, its forward and its weights
    head       the name of the linear layer; None: timm's `get_classifier()`, else the last one
    features   the name of the module whose output is the last map; None: found at the first batch,
               the last output with as many channels as the head reads. Tokens (B, N, C) count as
               the grid they were cut in, without those in front (timm's `num_prefix_tokens`)
    """

    def __init__(
        self, model: nn.Module, head: str | None = None, features: str | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self._head_name = head or _classifier(model)
        self._map_name = features
        if features is not None:
            _submodule(model, features)
        self.num_features = self.head.in_features
        self._found: dict[str, Tensor] = {}
        """What the hooks saw in the last forward pass: the map, and what the head was given."""

    @property
    def head(self) -> nn.Linear:  # type: ignore[override]  # a view: it is registered once
        module = _submodule(self.model, self._head_name)
        if not isinstance(module, nn.Linear):
            raise TypeError(
                f"the classifier {self._head_name} of {self.title} is a {type(module).__name__}, "
                "not a linear layer; head='name' names another one"
            )
        return module

    @property
    def title(self) -> str:
        return type(self.model).__name__

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images)
        return logits

    def features(self, images: Tensor) -> Tensor:
        """One pass of the model; `pool` and the head go on from what it left."""
        if self._map_name is None:
            self._map_name = self._find_map(images)
        self._found = {}
        hooks = [
            _submodule(self.model, self._map_name).register_forward_hook(self._keep_map),
            self.head.register_forward_pre_hook(self._keep_input),
        ]
        try:
            self.model(images)
        finally:
            for hook in hooks:
                hook.remove()
        self._found["map"] = self._as_map(self._found["map"], images)
        return self._found["map"]

    def pool(self, features: Tensor) -> Tensor:
        """What the head was given in the pass that left this map."""
        if self._found.get("map") is not features:
            raise RuntimeError(f"{self.title}: pool() takes what features() has just returned")
        return self._found["input"]

    def pool_region(self, region: Tensor) -> Tensor:
        """Through what the model has between its map and its head: a norm, dropout; as a map of
        one cell.
        """
        if hasattr(self.model, "forward_head"):  # timm's
            cell = region[:, :, None, None]
            if getattr(self.model, "output_fmt", "NCHW") == "NHWC":
                cell = cell.permute(0, 2, 3, 1)
            elif self._has_tokens:
                return region  # normalised already
            pooled: Tensor = cast(Any, self.model).forward_head(cell, pre_logits=True)
            return pooled
        parent, _, last = self._head_name.rpartition(".")
        around = self.model.get_submodule(parent)
        if not parent or not isinstance(around, nn.Sequential):
            return region
        cell = region[:, :, None, None]
        for module in list(around)[: int(last) if last.isdigit() else 0]:
            cell = module(cell)
        return cell.flatten(1)

    def _keep_map(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self._found["map"] = output

    def _keep_input(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._found["input"] = inputs[0]

    _has_tokens = False

    def _as_map(self, output: Tensor, images: Tensor) -> Tensor:
        """(B, C, h, w) of a map with channels first or last, or of tokens."""
        channels = self.num_features
        if output.ndim == 4:
            return output if output.shape[1] == channels else output.permute(0, 3, 1, 2)
        self._has_tokens = True
        class_token = int(hasattr(self.model, "class_token"))  # torchvision's
        before = int(getattr(self.model, "num_prefix_tokens", class_token))
        grid = _grid(output.shape[1] - before, images.shape[-2] / images.shape[-1])
        return output[:, before:].transpose(1, 2).reshape(len(output), channels, *grid)

    def _find_map(self, images: Tensor) -> str:
        """The name of the module with the last map, by one more pass over the first images."""
        seen: Outputs = []

        def look(name: str) -> Any:
            def keep(module: nn.Module, inputs: Any, output: Any) -> None:
                if isinstance(output, Tensor) and self._may_be_map(output):
                    seen.append((name, output))

            return keep

        hooks = [m.register_forward_hook(look(n)) for n, m in self.model.named_modules() if n]
        was_training = self.model.training
        try:
            self.model.eval()  # batch norms learn nothing of this pass
            self.model(images[:1])
        finally:
            self.model.train(was_training)
            for hook in hooks:
                hook.remove()
        if not seen:
            raise ValueError(
                f"{self.title} has no map of more than one cell with the {self.num_features} "
                f"channels that {self._head_name} reads, at {images.shape[-2]}×{images.shape[-1]} "
                "pixels: features='name' names the module with its last map; omega=0 needs none"
            )
        return seen[-1][0]

    def _may_be_map(self, output: Tensor) -> bool:
        if output.ndim == 4:
            first = output.shape[1] == self.num_features and output.shape[2:].numel() > 1
            last = output.shape[3] == self.num_features and output.shape[1:3].numel() > 1
            return first or last
        return output.ndim == 3 and output.shape[2] == self.num_features and output.shape[1] > 1


def _classifier(model: nn.Module) -> str:
    """The name of the linear layer that a model ends in."""
    modules: dict[str, nn.Module] = dict(model.named_modules())
    names = {id(module): name for name, module in modules.items()}
    if hasattr(model, "get_classifier"):  # timm's
        return names.get(id(cast(Any, model).get_classifier()), "")
    linear = [name for name, module in modules.items() if isinstance(module, nn.Linear)]
    if not linear:
        raise TypeError(f"{type(model).__name__} has no linear layer, so it is no classifier")
    return linear[-1]


def _submodule(model: nn.Module, name: str) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError:
        near = ", ".join(name for name, _ in model.named_children())
        raise ValueError(f"{type(model).__name__} has no module '{name}'; it has {near}") from None


def _grid(tokens: int, aspect: float) -> tuple[int, int]:
    """Rows and columns of so many tokens of a picture whose height is `aspect` times its width."""
    rows = max(1, round(math.sqrt(tokens * aspect)))
    if rows * (tokens // rows) != tokens:
        raise ValueError(f"{tokens} tokens are no grid; features='name' names a module with a map")
    return rows, tokens // rows
