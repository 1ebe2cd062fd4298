"""Where a training stands within its epoch, for whoever watches: `position.json`, no part of the
record and gone when the run is finished.
"""

import json
import math
import time
from contextlib import suppress
from pathlib import Path

from rm.files import UNGUARDED, Permit, write_atomically
from rm.tasks import StepOutput
from rm.trainer import Trainer

FIRST_SECONDS, SECONDS = 1.0, 5.0


class PositionFile:
    """Written a second after the first step, and then every five.

    silent   write nothing: of several processes that train together, the first one does
    """

    def __init__(self, run_dir: Path, *, silent: bool = False, permit: Permit = UNGUARDED) -> None:
        self.path = run_dir / "position.json"
        self.silent, self.permit = silent, permit
        self.due = math.inf if silent else time.monotonic() + FIRST_SECONDS
        self.since: tuple[float, int] | None = None

    def after_step(self, trainer: Trainer, output: StepOutput | None) -> None:
        """Note where the trainer stands, if it is time to."""
        now = time.monotonic()
        if self.since is None:  # the first step of all is much slower than those that follow
            self.since = (now, self._steps(trainer))
        if now < self.due or output is None:
            return
        self.due = now + SECONDS
        # The one look at the device within an epoch: every five seconds, for one step's time.
        loss = float(output.loss.detach())
        began, before = self.since
        steps = self._steps(trainer) - before
        note = {
            "time": round(time.time(), 3),
            "epoch": trainer.epoch,
            "step": trainer.step,
            "steps": trainer.steps_per_epoch,
            "loss": round(loss, 4) if math.isfinite(loss) else None,
            "step_seconds": round((now - began) / steps, 5) if steps else None,
        }
        with suppress(OSError):  # a full disk stops a training at what matters
            write_atomically(self.path, json.dumps(note), self.permit, survives="kill")

    @staticmethod
    def _steps(trainer: Trainer) -> int:
        return (trainer.epoch - 1) * trainer.steps_per_epoch + trainer.step

    def remove(self) -> None:
        """The training is over."""
        if not self.silent:
            self.path.unlink(missing_ok=True)
