"""Backends: each folder here runs the same worker on the same run directories and alone imports
its library. `launch/backends/base.py` says what a backend is.

The registry is the file system: `--backend ray` is the class in `launch/backends/ray/backend.py`.
"""

import importlib
from pathlib import Path

from launch.backends.base import Backend, Limits, Watcher

__all__ = ["NAMES", "Backend", "Limits", "Watcher", "get"]

NAMES = tuple(sorted(path.parent.name for path in Path(__file__).parent.glob("*/backend.py")))


def get(name: str) -> type[Backend]:
    """The backend of this name, one of NAMES; its library is not imported yet."""
    module = importlib.import_module(f"launch.backends.{name}.backend")
    return next(
        found
        for found in vars(module).values()
        if isinstance(found, type)
        and issubclass(found, Backend)
        and found.__module__ == module.__name__
    )
