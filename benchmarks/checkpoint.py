"""How long training waits for a checkpoint, which part of that is what, and what a copy for
writing in the background would take.

python -m benchmarks.scale checkpoint
"""

import hashlib
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.step import RM, our_run
from rm.rundir import checkpoint


def measure(folder: Path, repeat: int) -> None:
    """Of ResNet-18 and PyramidNet-200, after a step."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for backbone, batch in (("resnet18", 16), ("pyramidnet200_240", 4)):
        training = our_run(backbone, batch, RM, device)
        training.train_step()
        taken = {
            name: milliseconds(call, repeat)
            for name, call in _parts(training.state_dict, folder).items()
        }
        size = (folder / "checkpoint.pt").stat().st_size / 2**20
        wait = taken["all of it"][0]
        print(
            f"checkpoint of {backbone} with RM's history of {batch}: {size:.0f} MiB, training "
            f"waits {wait:.0f} ms: "
            f"{wait / 3000:.2f} % of the time with one every 300 s"
        )
        for name, (wall, worked) in taken.items():
            print(f"  {name:50}{wall:7.0f} ms, {worked:5.0f} ms of processor time")


def _parts(take: Callable[[], dict[str, Any]], folder: Path) -> dict[str, Callable[[], object]]:
    state = take()
    checkpoint.save(folder, state)
    data = (folder / "checkpoint.pt").read_bytes()

    def disk() -> None:
        with (folder / "same.bin").open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    return {
        "all of it": lambda: checkpoint.save(folder, take()),
        "of that, hashing": lambda: hashlib.sha256(data),
        "of that, writing to the disk": disk,
        "a copy of the state, for writing in the background": lambda: copied(state),
    }


def milliseconds(call: Callable[[], object], repeat: int) -> tuple[float, float]:
    """Medians: by the clock, and of what this process computed."""
    walls, works = [], []
    for _ in range(repeat):
        began, worked = time.perf_counter(), time.process_time()
        call()
        walls.append(1000 * (time.perf_counter() - began))
        works.append(1000 * (time.process_time() - worked))
    return statistics.median(walls), statistics.median(works)


def copied(state: Any) -> Any:
    """In the main memory, and apart from what training goes on to change."""
    if isinstance(state, torch.Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return {key: copied(value) for key, value in state.items()}
    return [copied(value) for value in state] if isinstance(state, list) else state
