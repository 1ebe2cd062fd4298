"""Measuring a trial instead of training it, in the same run directory with the same journal:
`rm.train.fit` comes here for it.
"""

import time
from collections.abc import Callable
from typing import Any

import torch

from rm import registry
from rm.rundir.journal import Journal, read
from rm.trial import Trial, TrialError


class Notes:
    """A probe's `Log` in a run's journal: each point is an `epoch` event, so that records hold it
    as they hold a
    training's; files go to `artifacts/` in the run directory."""

    def __init__(self, journal: Journal, check: Callable[[], None]) -> None:
        self._journal, self.check = journal, check
        self._points = 0

    def point(self, **values: float) -> None:
        self._points += 1
        self._journal.append("epoch", durable=False, epoch=self._points, **values)

    def keep(self, name: str, content: bytes) -> None:
        folder = self._journal.path.parent / "artifacts"
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)


def measure(
    trial: Trial, device: torch.device, journal: Journal, check: Callable[[], None]
) -> dict[str, Any]:
    """What `trial.probe` finds, as it stands in result.json: its number is the metric
    `measured_<probe>`.

    check   called where the probe can be stopped; raises to stop it
    """
    name = trial.probe
    if name is None:
        raise TrialError(f"trial {trial.id} has no probe: it is there to be trained")
    again = bool(read(journal.path))
    journal.append(
        "resumed" if again else "started",
        epochs=0,
        threads=torch.get_num_threads(),
        device=str(device),
    )
    began = time.monotonic()
    found: dict[str, float] = registry.load("probe", name)(
        trial, device, Notes(journal, check), **trial.options("probe")
    )
    return {
        "id": trial.id,
        "seed": trial.seed,
        "metrics": {f"measured_{key}": value for key, value in found.items()},
        "train_seconds": round(time.monotonic() - began, 3),
    }
