"""The folder of all run directories: what is in it, and which are finished; one question each,
side by side where the file system is slow.
"""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from launch.runs.contents import Damaged
from launch.runs.journal import State
from launch.runs.rundir import RunDir

BATCH = 128
AT_ONCE = 16
"""Questions under way together, once one at a time turns out to be mostly waiting."""

Item = TypeVar("Item")
Answer = TypeVar("Answer")


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

    there = map_io(is_finished, names)
    return {name for name, found in zip(names, there, strict=True) if found}


def map_io(question: Callable[[Item], Answer], items: Sequence[Item]) -> list[Answer]:
    """The answers, in the order of the items.

    Asked one after the other as long as that keeps the processor busy; as soon as a batch has
    mostly waited, as for a network file system or a cold disk, the rest is asked by several
    threads. An error of a question is raised.
    """
    answers: list[Answer] = []
    for start in range(0, len(items), BATCH):
        began, worked = time.perf_counter(), time.thread_time()
        answers += map(question, items[start : start + BATCH])
        waited = time.perf_counter() - began > 2 * (time.thread_time() - worked)
        rest = items[start + BATCH :]
        if waited and rest:
            return answers + _side_by_side(question, rest)
    return answers


def _side_by_side(question: Callable[[Item], Answer], items: Sequence[Item]) -> list[Answer]:
    from concurrent.futures import ThreadPoolExecutor  # rarely needed, and not free to load

    parts = [items[start : start + BATCH] for start in range(0, len(items), BATCH)]
    with ThreadPoolExecutor(AT_ONCE) as threads:
        return [
            answer
            for part in threads.map(lambda part: list(map(question, part)), parts)
            for answer in part
        ]
