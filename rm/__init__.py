"""RecursiveMix: the method, its comparison methods and one training loop (Yang et al., NeurIPS
2022). `rm.wrap(model)` takes a method into a loop of one's own.
"""

import importlib
from collections.abc import Mapping
from typing import Any

NUMERICS = 2
"""Raised whenever a change to `rm` changes what a finished training would have produced; part of
every trial's id.
"""

NUMERICS_OF_TASKS: Mapping[str, int] = {"detection": 2, "segmentation": 2}
"""Added to NUMERICS for a task's trials: raised where a change concerns these alone, so that all
others keep their ids. Never lowered.
"""


def __getattr__(name: str) -> Any:
    """`wrap`, which imports torch, when it is first asked for: planning must not wait for it."""
    if name == "wrap":
        return importlib.import_module(f"{__name__}.library.wrapped").wrap
    raise AttributeError(f"module 'rm' has no attribute '{name}'")
