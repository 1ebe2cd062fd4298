"""Probes: what can be measured of a trial instead of training it; one function each, its name is
its name in a spec.

    name(trial, device, log, *, option=default, ...) -> {name: the number that the spec compares,
    others: as they are}

Its file says as a literal what that number is: METRIC = {"label": ..., "unit": ..., "better":
"lower" or "higher"}. A probe that was stopped begins anew: it keeps no state.
"""

from typing import Protocol

import torch

from rm.rundir.weights import InitialWeights
from rm.trial import Trial


class ProbeLogger(Protocol):
    """What a probe reports while it measures."""

    def log_point(self, **values: float) -> None:
        """Journal the next point of a curve, from 1 on."""

    def save_artifact(self, name: str, content: bytes) -> None:
        """Keep a picture or the like with the run and its record."""

    def initial_weights(self) -> InitialWeights | None:
        """The weights that the trial's `init` names, read now; None without."""

    def raise_if_stopped(self) -> None:
        """Called where a probe can be stopped: raises where someone asked to."""


class Probe(Protocol):
    """A function in this package."""

    def __call__(
        self, trial: Trial, device: torch.device, log: ProbeLogger
    ) -> dict[str, float]: ...
