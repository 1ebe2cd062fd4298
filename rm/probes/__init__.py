"""Probes: what can be measured of a trial instead of training it; one function each, its name is
its name in a spec.

    name(trial, device, log, *, option=default, ...) -> {name: the number that the spec compares,
    others: as they are}

`log.point(...)` journals one point of a curve, `log.keep(...)` keeps a picture or the like with
the record; `log.check()` is called where a probe can be stopped, and raises then. A probe that was
stopped begins anew: it keeps no state.
"""

from typing import Protocol

import torch

from rm.trial import Trial


class Log(Protocol):
    """How a probe speaks while it measures."""

    def point(self, **values: float) -> None:
        """Journal the next point of a curve, from 1 on."""

    def keep(self, name: str, content: bytes) -> None:
        """Keep a file with the run and its record."""

    def check(self) -> None:
        """Raise where someone asked to stop."""


class Probe(Protocol):
    """A function in this package."""

    def __call__(self, trial: Trial, device: torch.device, log: Log) -> dict[str, float]: ...
