"""One question to the file system about each of many run directories, side by side where the file
system is slow.
"""

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

BATCH = 128
AT_ONCE = 16
"""Questions under way together, once one at a time turns out to be mostly waiting."""

Item = TypeVar("Item")
Answer = TypeVar("Answer")


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
