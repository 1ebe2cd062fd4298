"""Metrics as they are read from what was recorded: trainings record errors, and an accuracy is
made of its error here, and only here.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from rm.metrics import SELECTIONS, from_recorded, recorded_as

MEASURED = "measured"
"""The selection of what a probe measured: one number, of no epoch."""

RESULT_PREFIXES = tuple(f"{selection}_" for selection in (*SELECTIONS, MEASURED))
_NO_RESULT = "best_epoch"


def is_result(name: str) -> bool:
    """Whether a recorded number is the selection of some metric, such as `best_top1_error` or
    `last_top1_error.auxiliary`.
    """
    return name.startswith(RESULT_PREFIXES) and name != _NO_RESULT


def values_of(metric: str, results: Mapping[str, Any]) -> dict[str, float]:
    """A metric under each selection that is recorded of it and finite: {"best": 20.8, ...}."""
    recorded = recorded_as(metric)
    numbers = {name: results.get(f"{name}_{recorded}") for name in (*SELECTIONS, MEASURED)}
    return {
        name: from_recorded(metric, float(value))
        for name, value in numbers.items()
        if value is not None and math.isfinite(value)
    }


def series(name: str) -> tuple[str, Callable[[float], float]]:
    """Under which name a curve is recorded, and what makes its values of the recorded ones:
    `test_top1_accuracy` is read from `test_top1_error`.
    """
    split, _, metric = name.partition("_")
    if split not in ("train", "test") or recorded_as(metric) == metric:
        return name, float
    return f"{split}_{recorded_as(metric)}", lambda value: from_recorded(metric, value)
