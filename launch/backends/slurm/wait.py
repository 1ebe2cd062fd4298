"""`--wait`: follow submitted run directories until each has ended, from what is on disk and what
the scheduler says.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from launch.backends.base import Watcher
from launch.backends.queue import parents_of
from launch.runs.job import Job, Outcome
from launch.runs.rundir import RunDir

ON = ("submitted", "queued")
TICK_SECONDS = 1.0
ASK_SECONDS = 10.0
"""The scheduler is asked this often; a controller has other users."""
GONE_SECONDS = 30.0
"""How long a job may be gone before its trial counts as interrupted: its last writes may still be
on their way (NFS).
"""


def wait_for(
    ended: Mapping[Path, Outcome],
    journals: Mapping[Path, int],
    watcher: Watcher,
    jobs: Callable[[Sequence[Path]], dict[Path, Job]],
) -> dict[Path, Outcome]:
    """Until all that were submitted have ended. Ctrl-C leaves the jobs as they are.

    journals    the length of each journal at submission: what it says before that is an earlier
                run's end
    """
    waiting = _Waiting(ended, journals, watcher)
    try:
        while waiting.open:
            waiting.look_at_disk()
            if waiting.is_time_to_ask():
                waiting.look_at_jobs(jobs(waiting.open))
            watcher.tick()
            if waiting.open:
                time.sleep(TICK_SECONDS)
    except KeyboardInterrupt:
        pass  # the jobs go on
    return waiting.ended


class _Waiting:
    def __init__(
        self, ended: Mapping[Path, Outcome], journals: Mapping[Path, int], watcher: Watcher
    ) -> None:
        self.ended, self.journals, self.watcher = dict(ended), journals, watcher
        self.open = [run_dir for run_dir, end in ended.items() if end.status in ON]
        self.started: set[Path] = set()
        self.gone: dict[Path, float] = {}
        self.asked = 0.0
        for run_dir in ended.keys() - set(self.open):
            watcher.on_end(run_dir, ended[run_dir])

    def look_at_disk(self) -> None:
        for run_dir in list(self.open):
            state = RunDir(run_dir).state()
            if state == "finished":
                self._end(run_dir, Outcome("finished", None))
            elif state == "running" and run_dir not in self.started:
                self.started.add(run_dir)
                self.watcher.on_start(run_dir)
            elif (
                state == "failed"
                and (error := failure(run_dir, self.journals[run_dir])) is not None
            ):
                self._end(run_dir, Outcome("failed", error))

    def is_time_to_ask(self) -> bool:
        due = bool(self.open) and time.monotonic() - self.asked >= ASK_SECONDS
        self.asked = time.monotonic() if due else self.asked
        return due

    def look_at_jobs(self, found: Mapping[Path, Job]) -> None:
        """A trial whose job is gone for a while, without finishing it, was interrupted."""
        for run_dir in list(self.open):
            job = found.get(run_dir)
            if job is not None and job.state != "gone":
                self.gone.pop(run_dir, None)
                continue
            since = self.gone.setdefault(run_dir, time.monotonic())
            if time.monotonic() - since >= GONE_SECONDS and RunDir(run_dir).state() != "running":
                how = f" ({job.where})" if job and job.where else ""
                what = "cancelled" if RunDir(run_dir).cancelled() else f"its job is gone{how}"
                untrained = [p for p in parents_of(run_dir) if RunDir(p).state() != "finished"]
                if untrained:
                    what = f"it starts from trial {untrained[0].name}, which is not trained"
                self._end(run_dir, Outcome("blocked" if untrained else "interrupted", what))

    def _end(self, run_dir: Path, ended: Outcome) -> None:
        self.open.remove(run_dir)
        self.ended[run_dir] = ended
        self.watcher.on_end(run_dir, ended)


def failure(run_dir: Path, offset: int) -> str | None:
    """The error that a journal ends with, if it was written after `offset`."""
    events, _ = RunDir(run_dir).events(offset)
    return str(events[-1]["error"]) if events and events[-1]["event"] == "failed" else None
