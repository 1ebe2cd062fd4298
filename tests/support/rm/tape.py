"""A CUDA graph, as far as a CPU can show one: the operators that a call came to, played back on
the same memory, with nothing of Python in between.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

FORBIDDEN = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
"""What reads the device, which no capture allows."""


class Tape(TorchDispatchMode):
    """Records what is called inside of it. `replay` calls it again: each operator on the very
    tensors that it had, its results written to where they were. A number that Python put into a
    call stays what it was, as in a graph.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, list[Tensor]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func not in FORBIDDEN, f"{func} reads the device"
        found = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, _tensors(found)))
        return found

    def replay(self) -> None:
        with torch.no_grad():
            for func, args, kwargs, places in self.calls:
                for place, value in zip(places, _tensors(func(*args, **kwargs)), strict=True):
                    if place.data_ptr() != value.data_ptr():
                        place.copy_(value)


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def recorded(call: Callable[[], Any]) -> tuple[Any, Tape]:
    """What a call gives, and its tape."""
    with Tape() as tape:
        found = call()
    return found, tape
