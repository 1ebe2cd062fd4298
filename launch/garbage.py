"""Python's search for garbage, where there is none to find."""

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
