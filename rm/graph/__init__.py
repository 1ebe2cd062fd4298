"""A training step on memory that stays where it is, which a GPU replays as one CUDA graph
(`train.cuda_graph`).

A task that can splits its step in two. `prepare` does what differs from one step to the next: it
draws, cuts and mixes the batch, as ever. `compute` calls the same operators on tensors of the same
shapes each time: network and loss. StaticStep copies what was prepared into buffers of its own and
computes on them, through backward pass and optimizer: on a GPU that is captured once and then
replayed by a single call of the host, on a CPU it runs as it stands.

Both have the bits of a plain step: kernels and their order are the same.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

WARM_UP = 3
"""Steps of a kind on a GPU before it is captured, on a stream beside, as torch's notes on CUDA
graphs ask: libraries choose their algorithms, and an optimizer makes its state.
"""


class Prepared(NamedTuple):
    """What a step computes from, drawn and mixed already.

    kind      which computation it is: steps of one kind call the same operators
    tensors   all that differs between the steps of a kind
    logs      what is known already of a method's or a task's logs
    size      samples
    """

    kind: str
    tensors: Mapping[str, Tensor]
    logs: Mapping[str, Tensor | float]
    size: int


class Computed(NamedTuple):
    """What `compute` gives.

    loss   scalar
    logs   as those of a step; numbers are read once, tensors at every step
    said   what the task is told afterwards (`Task.remember`)
    """

    loss: Tensor
    logs: Mapping[str, Tensor | float]
    said: Mapping[str, Tensor]


Body = Callable[[str, Mapping[str, Tensor]], Computed]
"""(kind, tensors) -> what they give, with the optimizer's step done."""


class StaticStep:
    """A step's body on buffers that stay, a set of them for each kind of step.

    body        calls no more than kernels: it reads nothing from the device, and every number
                that changes is in a tensor
    optimizer   whose learning rates it finds in tensors; outside of a step they are numbers
    """

    def __init__(self, body: Body, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
        self.body, self.optimizer, self.device = body, optimizer, device
        # A GPU's fused optimizers read a rate as fp32, a CPU's as fp64.
        dtype = torch.float32 if device.type == "cuda" else torch.float64
        self.rates = [torch.zeros((), dtype=dtype, device=device) for _ in optimizer.param_groups]
        self.rates_there: list[float | None] = [None] * len(self.rates)
        self.buffers: dict[Any, _Buffers] = {}

    def __call__(self, prepared: Prepared) -> Computed:
        """One step; what it gives is the caller's to keep."""
        buffers = self._buffers_for(prepared)
        for name, tensor in prepared.tensors.items():
            buffers.tensors[name].copy_(tensor, non_blocking=True)
        for number, group in enumerate(self.optimizer.param_groups):
            if self.rates_there[number] != group["lr"]:
                self.rates[number].fill_(group["lr"])
                self.rates_there[number] = group["lr"]
        return _copied(buffers.step(self._bound(prepared.kind, buffers.tensors)))

    def _buffers_for(self, prepared: Prepared) -> "_Buffers":
        layout = tuple(
            (name, tensor.shape, tensor.stride(), tensor.dtype)
            for name, tensor in prepared.tensors.items()
        )
        key = prepared.kind, layout
        if key not in self.buffers:
            kind = _CapturedBuffers if self.device.type == "cuda" else _Buffers
            self.buffers[key] = kind(prepared.tensors)
        return self.buffers[key]

    def _bound(self, kind: str, tensors: Mapping[str, Tensor]) -> Callable[[], Computed]:
        def call() -> Computed:
            with self._rates_in_tensors():
                return self.body(kind, tensors)

        return call

    @contextmanager
    def _rates_in_tensors(self) -> Iterator[None]:
        """A number would stand in the graph for ever."""
        groups = self.optimizer.param_groups
        names = ("lr", "capturable")
        before: list[dict[str, Any]] = [{k: g[k] for k in names if k in g} for g in groups]
        for group, rate in zip(groups, self.rates, strict=True):
            group["lr"] = rate
            if "capturable" in group:  # Adam's: its step number is on the device, as fused has it
                group["capturable"] = self.device.type == "cuda"
        try:
            yield
        finally:
            for group, known in zip(groups, before, strict=True):
                group.update(known)


class _Buffers:
    """Where the tensors of one kind of step lie; on a CPU the body runs on them as it stands."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = {name: torch.empty_like(tensor) for name, tensor in tensors.items()}

    def step(self, call: Callable[[], Computed]) -> Computed:
        return call()


class _CapturedBuffers(_Buffers):
    """The same on a GPU: some steps to warm up, then a graph, with a memory pool of its own, as
    graphs of several kinds are replayed in any order.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(tensors)
        self.warm = 0
        self.stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self.graph: torch.cuda.CUDAGraph | None = None
        self.found: Computed | None = None

    def step(self, call: Callable[[], Computed]) -> Computed:
        if self.warm < WARM_UP:
            self.warm += 1
            return self._beside(self.stream, call)
        if self.graph is None or self.found is None:
            # Dropout and the like draw from the default generator, which a graph registers by
            # itself. Other threads may allocate meanwhile (pinned memory of reading ahead).
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self.found = call()
            self.graph = graph
        self.graph.replay()  # capturing computed nothing
        return self.found

    @staticmethod
    def _beside(stream: torch.cuda.Stream, call: Callable[[], Computed]) -> Computed:
        current = torch.cuda.current_stream()
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            computed = call()
        current.wait_stream(stream)
        for tensor in _tensors(computed):
            tensor.record_stream(current)
        return computed


def _tensors(computed: Computed) -> list[Tensor]:
    values = (computed.loss, *computed.logs.values(), *computed.said.values())
    return [value for value in values if isinstance(value, Tensor)]


def _copied(computed: Computed) -> Computed:
    """The next replay overwrites what a graph gives."""
    logs = {
        name: value.clone() if isinstance(value, Tensor) else value
        for name, value in computed.logs.items()
    }
    said = {name: value.clone() for name, value in computed.said.items()}
    return Computed(computed.loss.clone(), logs, said)
