"""Contestants in processes of their own, each with what belongs to it (its way with memory, say),
that take their turns when they are told to.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch


def serve(call: Callable[[], object]) -> None:
    """In such a process: a turn for each line that comes in, whose seconds go out. Those of one
    thread are the processor's: what else runs counts little.
    """
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    print("ready", flush=True)
    for _ in sys.stdin:
        began = clock()
        call()
        print(clock() - began, flush=True)


def alternate(
    commands: Mapping[str, Sequence[str]], turns: int, warm_up: int = 2
) -> dict[str, list[float]]:
    """Seconds of each contestant's turns, one after the other, after some to warm up.

    commands   the words behind `python` that start a process which calls `serve`
    """
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    with _started(commands) as started:
        for turn in range(turns + warm_up):
            for name, process in started.items():
                print(file=process.stdin, flush=True)
                took = float(_line(process))
                if turn >= warm_up:
                    seconds[name].append(took)
    return seconds


@contextmanager
def _started(
    commands: Mapping[str, Sequence[str]],
) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """The processes, one after the other until each is ready; they end with the block."""
    started: dict[str, subprocess.Popen[str]] = {}
    try:
        for name, words in commands.items():
            started[name] = subprocess.Popen(
                [sys.executable, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            while _line(started[name]) != "ready":
                pass
        yield started
    finally:
        for process in started.values():
            process.kill()
            process.communicate()


def _line(process: subprocess.Popen[str]) -> str:
    """The next one that a process writes; SystemExit where it has ended, with its words on
    stderr.
    """
    line = process.stdout.readline() if process.stdout else ""
    if not line:
        raise SystemExit(f"a contestant ended with status {process.wait()}: {process.args!r}")
    return line.rstrip("\n")
