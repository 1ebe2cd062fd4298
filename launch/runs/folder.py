"""The folder of all run directories: what is in it, and which are finished; one question each."""

import os
from collections.abc import Sequence
from pathlib import Path

from launch.runs import parallel
from launch.runs.contents import Damaged
from launch.runs.journal import State
from launch.runs.rundir import RunDir


def state_of(run_dir: Path) -> State:
    """The state of a run directory, for whoever wants a function."""
    return RunDir(run_dir).state()


def names(runs: Path) -> set[str]:
    """What is in the folder of all runs, by one listing: what is not there need not be asked
    for.
    """
    try:
        with os.scandir(runs) as entries:
            return {entry.name for entry in entries}
    except FileNotFoundError:
        return set()


def finished(runs: Path, names: Sequence[str]) -> set[str]:
    """Which of the run directories of these names in the folder `runs` are finished: one question
    each.
    """

    def is_finished(name: str) -> bool:
        try:
            return RunDir(f"{runs}/{name}").is_finished()
        except (Damaged, OSError):
            return False  # `state` says damaged

    there = parallel.map_io(is_finished, names)
    return {name for name, found in zip(names, there, strict=True) if found}
