"""Weights & Biases: one run a trial. `WANDB_MODE=offline` keeps it in `results/wandb/`, from where
`wandb sync` sends it.

A run's id is the trial's with its journal's beginning, so that whoever resumes a trial goes on in
the same run. Steps are epochs; one that was sent is not sent again.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from launch.errors import UsageError
from launch.paths import results_dir
from launch.tracking.client import EXPERIMENT
from launch.tracking.followers import Event, Follower, Mark
from launch.tracking.record import CURSOR_METRIC, Point, Record

if TYPE_CHECKING:
    from wandb import Run

SECONDS = 30
"""How long its server is waited for."""
MOST_OPEN = 64
"""Runs that are kept open; each costs wandb's process some memory."""


class Wandb(Follower):
    """Keeps a run open as long as its trial trains: opening one takes seconds."""

    name = "wandb"
    package = "wandb"
    place = f"PROJECT (default: {EXPERIMENT})"

    def __init__(self, where: str | None) -> None:
        super().__init__(where)
        self.runs: dict[tuple[str, str], Run] = {}

    def check(self) -> None:
        super().check()
        if os.environ.get("WANDB_MODE") in ("offline", "dryrun", "disabled"):
            return
        import wandb

        if not (os.environ.get("WANDB_API_KEY") or wandb.api.api_key):
            raise UsageError(
                "--follow wandb: nobody is logged in at wandb here; `wandb login`, or "
                "WANDB_MODE=offline, which keeps runs in results/wandb"
            )

    def send(self, found: Record, events: Sequence[Event], mark: Mark) -> Iterator[Mark]:
        run, epoch = self._run(found), int(mark.get("epoch", 0))
        for points in found.points(epoch):
            epoch = points[0].step
            run.log({**_numbers(points), "_timestamp": points[0].time / 1000}, step=epoch)
        finals = [] if mark.get("ended") else found.finals()
        run.summary.update(_numbers(finals))
        if found.status == "FAILED":
            run.summary["error"] = found.tags["error"]
        if found.status != "RUNNING" or len(self.runs) > MOST_OPEN:
            self.runs.pop((found.trial_id, found.journal)).finish(
                exit_code=int(found.status == "FAILED")
            )
        yield {"epoch": epoch, "ended": bool(mark.get("ended") or finals)}

    def _run(self, found: Record) -> "Run":
        key = (found.trial_id, found.journal)
        if key not in self.runs:
            import wandb

            folder = results_dir()
            folder.mkdir(parents=True, exist_ok=True)
            self.runs[key] = wandb.init(
                project=self.where or EXPERIMENT,
                dir=folder,
                id=f"{found.trial_id}-{found.start:x}",
                name=found.name,
                group=str(found.uses[0]["spec"]) if found.uses else None,
                config={k: v for k, v in found.trial.items() if k not in ("id", "numerics")},
                tags=[f"trial {found.trial_id}"],
                resume="allow",
                reinit="create_new",
                settings=wandb.Settings(**_SETTINGS),
            )
        return self.runs[key]

    def close(self) -> None:
        for run in self.runs.values():
            with contextlib.suppress(Exception):
                run.finish(exit_code=0, quiet=True)
        self.runs.clear()


_SETTINGS: dict[str, Any] = {
    # What this process prints, runs on and loads is none of the trial's: that is its worker's.
    "console": "off",
    "x_disable_stats": True,
    "disable_git": True,
    "save_code": False,
    "x_save_requirements": False,
    "silent": True,
    "init_timeout": SECONDS,
}


def _numbers(points: Sequence[Point]) -> dict[str, float]:
    return {point.key: point.value for point in points if point.key != CURSOR_METRIC}
