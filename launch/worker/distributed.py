"""One trial trained by several processes, on this machine or with the other nodes of its job."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from launch.worker import process_group
from launch.worker.nodes import Rendezvous


def train(run_dir: Path, count: int, stop: Callable[[], bool]) -> dict[str, Any]:
    """Train a run directory, whose lease is ours, by `count` processes; returns an answer as
    `launch.worker.run_one` does.

    Raises WorkerLost where a process ended without one.
    """
    nodes = int(os.environ.get(process_group.NODES, 1))
    here, gpus = (
        count // nodes,
        [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu],
    )
    if count % nodes or 0 < len(gpus) < here:
        has = f"{nodes} nodes" if nodes > 1 else f"{len(gpus)} GPUs"
        return {
            "outcome": "failed",
            "error": f"{count} processes cannot share the {has} that there are here",
        }
    if nodes > 1:
        with Rendezvous(Path(os.environ[process_group.RENDEZVOUS]), nodes - 1) as rendezvous:
            if not rendezvous.wait(stop):
                return {"outcome": "interrupted", "error": "stopped before it began"}
            others = rendezvous.dispatch(run_dir, here, count)
            with process_group.ranks(
                run_dir, 0, here, count, rendezvous.address, rendezvous.rendezvous
            ) as own:
                return process_group.combine(process_group.wait_all([*own, *others], stop), stop())
    with process_group.ranks(
        run_dir, 0, here, count, "127.0.0.1", process_group.free_port()
    ) as own:
        return process_group.combine(process_group.wait_all(own, stop), stop())
