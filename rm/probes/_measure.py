"""Measuring a trial instead of training it, in the same run directory with the same journal:
`rm.train.fit` comes here for it.
"""

import time
from collections.abc import Callable
from typing import Any

import torch

from rm import registry
from rm.files import write_atomically
from rm.rundir.journal import Journal, read
from rm.rundir.weights import InitialWeights, read_init
from rm.trial import Init, Trial, TrialError


class JournalLogger:
    """A probe's `ProbeLogger` in a run directory: each point is an event of the journal, files go
    to `artifacts/`.
    """

    def __init__(
        self, journal: Journal, raise_if_stopped: Callable[[], None], init: Init | None = None
    ) -> None:
        self._journal, self.raise_if_stopped = journal, raise_if_stopped
        self._init = init
        self._points = 0

    def initial_weights(self) -> InitialWeights | None:
        return read_init(self._init, self._journal.path.parent) if self._init else None

    def log_point(self, **values: float) -> None:
        self._points += 1
        self._journal.append("point", durable=False, point=self._points, **values)

    def save_artifact(self, name: str, content: bytes) -> None:
        folder = self._journal.path.parent / "artifacts"
        folder.mkdir(exist_ok=True)
        write_atomically(folder / name, content)


def measure(
    trial: Trial, device: torch.device, journal: Journal, raise_if_stopped: Callable[[], None]
) -> dict[str, Any]:
    """What `trial.probe` finds, as it stands in result.json: its number is the metric
    `measured_<probe>`.

    raise_if_stopped   called where the probe can be stopped
    """
    name = trial.probe
    if name is None:
        raise TrialError(f"trial {trial.id} has no probe: it is there to be trained")
    again = bool(read(journal.path))
    journal.append(
        "resumed" if again else "started",
        threads=torch.get_num_threads(),
        device=str(device),
    )
    began = time.monotonic()
    found: dict[str, float] = registry.load("probe", name)(
        trial,
        device,
        JournalLogger(journal, raise_if_stopped, trial.init),
        **trial.options("probe"),
    )
    return {
        "id": trial.id,
        "seed": trial.seed,
        "metrics": {f"measured_{key}": value for key, value in found.items()},
        "train_seconds": round(time.monotonic() - began, 3),
    }
