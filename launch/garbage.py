"""Python's search for garbage, where there is none to find."""

import atexit
import gc
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
def lasting() -> Iterator[None]:
    """`without_gc`, and what has been made so far is not looked at later either: for the import of
    a large package. Torch's 190,000 objects cost a seventh of its import, and more afterwards.
    """
    with without_gc():
        yield
    gc.freeze()
    atexit.register(gc.unfreeze)  # else libraries that count their objects report leaks at the end
