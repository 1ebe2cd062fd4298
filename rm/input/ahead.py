"""Batches that a GPU makes while it still computes the step before, on a stream beside."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

_NONE, _END = object(), object()


def stream_beside(device: torch.device) -> Any | None:
    """None on a CPU, which has computed a step before it is asked for the next batch."""
    if device.type != "cuda":
        return None
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


class BatchesAhead:
    """An iterator over an epoch's batches: tensors, or tuples, lists and mappings of them.

    `make_next`, called when a step has been sent to the device, sends the making of the next batch
    after it, on the stream beside; who asks for that batch has the device wait for it, not the
    host. So what makes batches draws no number from torch's generators, and reads nothing that
    steps write. On a CPU batches are made when they are asked for.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = stream_beside(device)  # one, as each has memory of its own
        self._device = device
        self._of = torch.cuda if device.type == "cuda" else torch.cpu
        self._start: Callable[[], Iterator[Any]] = lambda: iter(())
        self._batches: Iterator[Any] | None = None
        self._next: Any = _NONE
        self._error: Exception | None = None

    def restart(self, start: Callable[[], Iterator[Any]]) -> None:
        """Begin anew, with what `start` gives when the first batch is asked for."""
        self.close()
        self._start = start

    def __iter__(self) -> "BatchesAhead":
        return self

    def __next__(self) -> Any:
        if self._batches is None:
            self._batches = self._start()
            if self._stream is not None:
                self._stream.wait_stream(self._of.current_stream(self._device))
        if self._stream is None:
            return next(self._batches)
        self.make_next()
        if self._error is not None:
            raise self._error
        if self._next is _END:
            raise StopIteration
        batch, self._next = self._next, _NONE
        current = self._of.current_stream(self._device)
        current.wait_stream(self._stream)
        for tensor in _tensors(batch):
            if tensor.is_cuda:  # whose memory the stream beside uses again, but not before
                tensor.record_stream(current)
        return batch

    def make_next(self) -> None:
        """An error on the way is raised where the batch is asked for."""
        ready = self._next is not _NONE or self._error is not None
        if self._stream is None or self._batches is None or ready:
            return
        with self._of.stream(self._stream):
            try:
                self._next = next(self._batches, _END)
            except Exception as error:
                self._error = error

    def close(self) -> None:
        """Before what batches are made from goes: its memory is not to be used again while the
        stream beside reads it.
        """
        if self._stream is not None:
            self._of.current_stream(self._device).wait_stream(self._stream)
        self._batches, self._next, self._error = None, _NONE, None
        self._start = lambda: iter(())


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(each)
