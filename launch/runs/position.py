"""Where a training stands within its epoch, as its worker noted it (rm/rundir/position.py)."""

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from launch.runs import journal

FILE = "position.json"


class Position(NamedTuple):
    """After `step` of `steps` in an epoch, at some time (seconds since 1970).

    loss           of that step; None where it was not finite
    step_seconds   what a step has taken since the worker began, evaluations included
    """

    time: float
    epoch: int
    step: int
    steps: int
    loss: float | None
    step_seconds: float | None

    def seconds_left(self, epochs: int) -> float | None:
        """Until all epochs are over, at this pace; None before there is one."""
        if self.step_seconds is None:
            return None
        steps = (epochs - self.epoch) * self.steps + self.steps - self.step
        return max(0.0, steps * self.step_seconds - max(0.0, time.time() - self.time))


def read(run_dir: Path | str) -> Position | None:
    """What the worker noted last; None where it has not, or not yet."""
    try:
        with open(os.path.join(run_dir, FILE), encoding="utf-8") as file:  # noqa: PTH118, PTH123
            return Position(**json.load(file))
    except (OSError, ValueError, TypeError):
        return None  # of no consequence: it is written again in seconds


def within(position: Position | None, events: Sequence[Mapping[str, Any]]) -> Position | None:
    """The position, if it is that of the epoch which the journal's last events speak of, and not
    left by a worker before.
    """
    if position is None:
        return None
    begun = [float(e["time"]) for e in events if e["event"] in ("started", "resumed")]
    fresh = position.time >= max(begun, default=0.0)
    return position if fresh and position.epoch == journal.reached(events) + 1 else None


def last_test(events: Sequence[Mapping[str, Any]]) -> tuple[str, float] | None:
    """The task's primary metric as it was tested last, and its value."""
    for event in reversed(events):
        for key, value in event.items():
            name = key.removeprefix("test_")
            if name != key and name != "loss" and event["event"] == "epoch":
                return name, float(value)
    return None
