"""The actor: a warm process on some node of a Ray cluster that runs one run directory after
another. Imports no ray itself.
"""

import os
import platform
import threading
from pathlib import Path
from typing import Any

from launch.runs import rundir
from launch.runs.resources import wanted
from launch.runs.rundir import RunDir
from launch.worker import worker


class Worker:
    """Two threads: one trains, the other one stays free for `stop`."""

    def __init__(self) -> None:
        self.stopped = threading.Event()

    def arrive(self, run_dir: str) -> dict[str, Any]:
        """Import what every trial needs; says where this is, and what is wrong with the place
        (null if nothing).
        """
        problem = _problem(Path(run_dir))
        if problem is None and wanted(Path(run_dir)).processes == 1:
            worker.warm_up()
        devices = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        return {
            "host": platform.node(),
            "pid": os.getpid(),
            "devices": devices,
            "problem": problem,
        }

    def run_one(self, run_dir: str) -> dict[str, Any]:
        """`launch.worker.run_one`, with this actor's thread share."""
        problem = _problem(Path(run_dir))
        if problem is not None:
            return {"outcome": "failed", "error": problem}
        return worker.run_one(Path(run_dir), self.stopped.is_set)

    def stop(self) -> None:
        """Checkpoint at the next step and end."""
        self.stopped.set()


def _problem(run_dir: Path) -> str | None:
    if RunDir(run_dir).has(rundir.TRIAL):
        return None
    return (
        f"node {platform.node()} does not see {run_dir}/{rundir.TRIAL}: run directories must lie "
        "on a file system that all nodes of the Ray cluster share (set RM_RESULTS_DIR)"
    )
