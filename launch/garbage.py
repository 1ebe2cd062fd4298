"""Python's search for garbage, where there is none to find."""

import atexit
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_gc() -> Iterator[None]:
    """No garbage collection while tens of thousands of objects are made that all live on.

    Each search for garbage walks over all of them: half of the time of a plan of 100,000 trials,
    most of that of a page of records.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextmanager
def importing(package: str) -> Iterator[None]:
    """`without_gc` for the first import of a large package, whose objects are not looked at later
    either: torch's 190,000 cost a seventh of its import, and more afterwards. Where it is there
    already nothing is done: what a process has made meanwhile, and thrown away, must be found.
    """
    if package in sys.modules:
        yield
        return
    with without_gc():
        yield
    gc.freeze()
    atexit.register(gc.unfreeze)  # else libraries that count their objects report leaks at the end
