"""One process of several that train one trial together (`python -m torch.distributed.run -m
rm.train ...`), or the only one.
"""

import argparse
import os
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class ProcessGroup:
    """The group that this process belongs to. With a count of 1 nothing here communicates.

    Numbers are exchanged through a gloo group of their own, so that a decision never waits for a
    GPU.
    """

    def __init__(self, rank: int = 0, count: int = 1) -> None:
        self.rank, self.count = rank, count
        self.control: Any = dist.new_group(backend="gloo") if count > 1 else None

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def share(self, start: int, stop: int) -> slice:
        """This process's part of the positions start..stop, in the order of the ranks, as equal as
        can be.
        """
        length = stop - start
        return slice(
            start + length * self.rank // self.count,
            start + length * (self.rank + 1) // self.count,
        )

    def any(self, *flags: bool) -> list[bool]:
        """Each flag: whether any process raised it. All processes decide alike, at the same
        step.
        """
        if self.count == 1:
            return list(flags)
        raised = torch.tensor(flags, dtype=torch.int32)
        dist.all_reduce(raised, dist.ReduceOp.MAX, self.control)
        return [bool(flag) for flag in raised]

    def sums(self, values: Iterable[float]) -> list[float]:
        """Each value summed over the processes, in float64."""
        total = torch.tensor(list(values), dtype=torch.float64)
        if self.count > 1:
            dist.all_reduce(total, group=self.control)
        return [float(value) for value in total]

    def largest(self, value: int) -> int:
        """The largest of the processes' values."""
        found = torch.tensor(value)
        if self.count > 1:
            dist.all_reduce(found, dist.ReduceOp.MAX, self.control)
        return int(found)

    def gather(self, state: Any) -> list[Any]:
        """The states of all processes, by rank, on the first one; an empty list on the others.
        Tensors arrive on the CPU.
        """
        if self.count == 1:
            return [state]
        states: list[Any] | None = [None] * self.count if self.is_first else None
        dist.gather_object(_on_cpu(state), states, group=self.control)
        return states or []

    def concatenated(self, share: Tensor) -> Tensor:
        """The shares of all processes one after the other, in each of them, without a graph; all
        are of one shape.
        """
        if self.count == 1:
            return share
        whole = share.detach().contiguous()
        shares = [torch.empty_like(whole) for _ in range(self.count)]
        dist.all_gather(shares, whole)
        return torch.cat(shares)

    def broadcast(self, value: Any) -> Any:
        """The first process's value, in all of them."""
        if self.count == 1:
            return value
        values = [value if self.is_first else None]
        dist.broadcast_object_list(values, 0, group=self.control)
        return values[0]

    def wrap(self, model: nn.Module) -> nn.Module:
        """The module whose backward pass averages gradients over the processes; batch-norm buffers
        are those of the first. What is alike everywhere by itself is not sent (`alike_buffers`).
        """
        if self.count == 1:
            return model
        parallel = nn.parallel.DistributedDataParallel
        ignore: Any = parallel._set_params_and_buffers_to_ignore_for_model
        ignore(model, alike_buffers(model))
        # In a plain step RecursiveMix's second head takes no part, hence find_unused_parameters.
        return parallel(model, find_unused_parameters=True)

    def averaging(self, model: nn.Module, now: bool) -> AbstractContextManager[None]:
        """Around passes of a wrapped module: whether its gradients are averaged over the processes
        now, or only added up here.
        """
        if now or not isinstance(model, nn.parallel.DistributedDataParallel):
            return nullcontext()
        return model.no_sync()

    def share_buffers(self, model: nn.Module) -> None:
        """Everyone takes the first process's buffers, before evaluating: running statistics are
        device 0's.
        """
        if self.count > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)

    def wait(self) -> None:
        """Until all processes are here."""
        if self.count > 1:
            dist.barrier(self.control)


def alike_buffers(model: nn.Module) -> list[str]:
    """Names of the buffers that every process brings to the same bits by itself: those of modules
    that say ALIKE, as a queue of keys that were gathered, or the features of all pictures. They
    are large, and would be sent at each step.
    """
    return [
        f"{place}.{name}" if place else name
        for place, module in model.named_modules()
        if getattr(module, "ALIKE", False)
        for name, _ in module.named_buffers(recurse=False)
    ]


def join() -> tuple[ProcessGroup, torch.device]:
    """Join the group that torch.distributed.run set up in the environment, on this process's GPU
    where there is one.
    """
    rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo", rank=rank, world_size=count
    )
    return ProcessGroup(rank, count), device


def is_lost_peer(error: BaseException) -> bool:
    """Whether an error only says that another process of the group is gone: the reason is that
    one's to tell.
    """
    said = str(error).lower()
    words = (
        "connection closed by peer",
        "connection reset by peer",
        "broken pipe",
        "nccl",
        "gloo",
    )
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(word in said for word in words)
    )


def _on_cpu(state: Any) -> Any:
    if isinstance(state, Tensor):
        return state.cpu()
    if isinstance(state, dict):
        return {key: _on_cpu(value) for key, value in state.items()}
    if isinstance(state, list):
        return [_on_cpu(value) for value in state]
    return state


def default_device() -> torch.device:
    """The first GPU that CUDA_VISIBLE_DEVICES leaves, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def named_device(text: str) -> torch.device:
    """An argument's type: `cpu`, `cuda`, `cuda:1`; one that torch cannot use here is refused."""
    try:
        device = torch.device(text)
    except RuntimeError:
        raise argparse.ArgumentTypeError(f"no device '{text}'; cpu, cuda, cuda:1 are") from None
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count == 0:
            why = "no driver, or a torch that is built for CPUs"
            raise argparse.ArgumentTypeError(
                f"there is no GPU here that torch can use ({why}); --device cpu, or leave it out"
            )
        if (device.index or 0) >= count:
            raise argparse.ArgumentTypeError(f"there are {count} GPUs here, from cuda:0 on")
    return device
