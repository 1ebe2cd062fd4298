"""Random initial values that are drawn once: the last ones, where a network is given several.

torch draws for every layer that is made, timm and OpenMMLab then draw again for most of them, and
weights that are loaded write over both. Drawing is nearly all of what building a detector takes.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_aten = torch.ops.aten
_DRAWS = frozenset({_aten.uniform_.default, _aten.normal_.default})
_WRITES = _DRAWS | {_aten.fill_.Scalar, _aten.zero_.default, _aten.copy_.default}
"""Operators that give a tensor new values, whatever it held."""
_LARGE = 1 << 20
"""Elements of a tensor whose values come from a generator of its own: torch fills one on one
thread.
"""


class _Draw(NamedTuple):
    func: Any
    args: Sequence[Any]

    @property
    def tensor(self) -> Tensor:
        return self.args[0]  # type: ignore[no-any-return]

    def __call__(self, **options: Any) -> None:
        with torch.no_grad():  # which a thread does not inherit
            self.func(*self.args, **options)


class LastDraws(TorchDispatchMode):
    """In its block, `uniform_` and `normal_` on the CPU wait until something reads the tensor or
    the block ends; what is written over meanwhile is never drawn. The others come in the order in
    which they were asked for: small tensors from torch's generator, as without, large ones from
    generators that it seeds, on as many threads as torch has, however many these are.

    Only what torch dispatches is seen: not `tensor.numpy()`, which would show no values yet.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._waiting: dict[int, _Draw] = {}
        """By storage."""

    def __torch_dispatch__(
        self,
        func: Any,
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = kwargs or {}
        if func.is_view:  # reads nothing
            return func(*args, **named)
        target, read = None, [*args, *named.values()]
        if func in _WRITES and _is_whole(args[0]):
            target = read.pop(0)
            if not any(_shares(value, target) for value in read):
                self._waiting.pop(_storage(target), None)
        if func in _DRAWS and target is not None and target.device.type == "cpu" and not named:
            self._waiting[_storage(target)] = _Draw(func, args)
            return target
        if self._waiting and self._concerns(func, read):
            self._draw()
        return func(*args, **named)

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]
        if kind is None:
            self._draw()

    def _concerns(self, func: Any, read: Iterable[Any]) -> bool:
        """Whether an operator draws itself, or reads or changes what waits."""
        lists = (value if isinstance(value, list | tuple) else [value] for value in read)
        return torch.Tag.nondeterministic_seeded in func.tags or any(
            isinstance(value, Tensor) and _storage(value) in self._waiting
            for value in itertools.chain.from_iterable(lists)
        )

    def _draw(self) -> None:
        draws, self._waiting = list(self._waiting.values()), {}
        large = list[tuple[_Draw, torch.Generator]]()
        for draw in draws:
            if draw.tensor.numel() < _LARGE:
                draw()
            else:
                seed = int(torch.randint(2**63 - 1, ()))
                large.append((draw, torch.Generator().manual_seed(seed)))
        if large:
            large.sort(key=lambda each: -each[0].tensor.numel())  # the longest first
            with ThreadPoolExecutor(min(len(large), torch.get_num_threads())) as threads:
                list(threads.map(lambda each: each[0](generator=each[1]), large))


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _shares(value: Any, tensor: Tensor) -> bool:
    return isinstance(value, Tensor) and _storage(value) == _storage(tensor)


def _is_whole(tensor: Tensor) -> bool:
    """Whether the tensor is all of its storage."""
    return tensor.numel() * tensor.element_size() == tensor.untyped_storage().nbytes()
