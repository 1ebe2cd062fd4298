"""How trials stand: run directory, lease, journal and scheduler in one answer.

Each run directory is looked at once, by a single listing where nothing has happened yet;
schedulers are asked once for all.
"""

import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from launch.runs import journal, lease, rundir
from launch.runs.contents import Damaged, why
from launch.runs.job import Job
from launch.runs.journal import Position
from launch.runs.rundir import RunDir

State = journal.State | Literal["lost"]
"""lost: a scheduler had it, knows it no more, and nothing has been heard of it since; `retry`
takes it.
"""

SETTLED_SECONDS = 30.0
"""What a job wrote last may be seen this much later on another machine; until then a job that is
gone is not missed.
"""


class RunDirSnapshot(NamedTuple):
    """What one look into a run directory found. A finished one is looked at no further."""

    state: journal.State
    holder: Mapping[str, Any] | None = None
    heartbeat_age: float | None = None
    """Seconds since the lease's last heartbeat."""
    events: tuple[Mapping[str, Any], ...] = ()
    job: Mapping[str, Any] | None = None
    """The last line of jobs.jsonl."""
    cancelled: bool = False
    damage: str = ""
    """File, line and reason."""
    position: Position | None = None
    """Within the epoch, where a worker is at it."""


class TrialStatus(NamedTuple):
    """How a trial stands, as `status` shows it."""

    state: State
    where: str = ""
    """The machine that works on it, what it waits for, or that its record is committed."""
    note: str = ""
    """The last line of an error, or why it was given up."""
    job: str | None = None
    epoch: int = 0
    """Epochs behind it."""
    points: int = 0
    """Of a probe, which has no epochs: points measured."""
    seconds_left: float | None = None
    heartbeat_age: float | None = None
    step: int = 0
    """Steps behind it in the epoch that is trained now, of `steps`."""
    steps: int = 0
    loss: float | None = None
    """Of the last step that was looked at."""
    tested: tuple[str, float] | None = None
    """The primary metric's name and value as of the last test."""


class Scheduler(Protocol):
    """What is asked of a backend whose jobs live on in a queue."""

    def jobs(
        self, run_dirs: Iterable[Path], last: Mapping[Path, Mapping[str, Any]] | None = None
    ) -> dict[Path, Job]:
        """What it says of the newest job of each, in one question."""


Schedulers = Callable[[str], Scheduler]
"""A backend by its name: `launch.backends.get`."""


class StatusReader:
    """Run directories, each looked at once. What is not in the folder of all runs is not looked
    for there.
    """

    def __init__(self, runs: Path, schedulers: Schedulers) -> None:
        self.schedulers = schedulers
        self.seen: dict[Path, RunDirSnapshot] = {}
        try:
            with os.scandir(runs) as entries:
                self.known = {entry.name for entry in entries}
        except OSError:
            self.known = set()

    def state(self, run_dir: Path) -> journal.State:
        """As `RunDir.state`, and remembered."""
        if run_dir.name not in self.known:
            return "waiting"
        if run_dir not in self.seen:
            self.seen[run_dir] = read_snapshot(run_dir)
        return self.seen[run_dir].state

    def statuses(self, epochs: Mapping[Path, int]) -> dict[Path, TrialStatus]:
        """How each run directory stands, with the scheduler's word on those it may still have;
        given its number of epochs (0: a probe).
        """
        for run_dir in epochs:
            self.state(run_dir)
        snapshots = {
            run_dir: self.seen.get(run_dir, RunDirSnapshot("waiting")) for run_dir in epochs
        }
        jobs = ask_schedulers(snapshots, self.schedulers)
        return {
            run_dir: resolve_status(snapshots[run_dir], jobs.get(run_dir), epochs[run_dir])
            for run_dir in epochs
        }


def read_snapshot(run_dir: Path) -> RunDirSnapshot:
    """One look: is it finished, else who is at it, how far it came, and to whom it was given. One
    listing tells what there is. What cannot be read is no error of whoever looks.
    """
    try:
        names = set(os.listdir(run_dir))  # noqa: PTH208
    except (FileNotFoundError, NotADirectoryError):
        return RunDirSnapshot("waiting")
    except OSError as error:
        return RunDirSnapshot("damaged", damage=why(error))
    try:
        return _snapshot(RunDir(run_dir), names)
    except (Damaged, OSError) as error:
        return RunDirSnapshot("damaged", damage=why(error))


def _snapshot(here: RunDir, names: Collection[str]) -> RunDirSnapshot:
    if rundir.RESULT in names and here.is_finished():
        return RunDirSnapshot("finished")
    holder = here.holder() if rundir.LEASE in names else None
    if rundir.LEASE in names and holder is None:
        lease.check_damaged(here.file(rundir.LEASE), here.file(rundir.LEASE_LOCK))
    events = tuple(here.last_events(journal.RECENT_EPOCHS + 1)) if rundir.JOURNAL in names else ()
    alive = holder is not None and here.is_held_by(holder)
    return RunDirSnapshot(
        "running" if alive else journal.state_left_by(events[-1] if events else None),
        holder,
        _age(here.file(rundir.LEASE)) if holder else None,
        events,
        _last_job(here) if rundir.JOBS in names else None,
        rundir.CANCEL in names and here.cancelled(),
        position=journal.within(journal.position_of(here.path), events) if alive else None,
    )


def _age(path: Path) -> float | None:
    try:
        return max(0.0, time.time() - path.stat().st_mtime)
    except OSError:
        return None


def _last_job(run_dir: RunDir) -> dict[str, Any] | None:
    jobs = run_dir.jobs
    return jobs[-1] if jobs else None


def ask_schedulers(
    snapshots: Mapping[Path, RunDirSnapshot], schedulers: Schedulers
) -> dict[Path, Job]:
    """What schedulers say of the run directories that are not finished and were given to one."""
    given: dict[str, dict[Path, Mapping[str, Any]]] = {}
    for run_dir, snapshot in snapshots.items():
        if snapshot.job is not None and snapshot.state != "finished":
            given.setdefault(str(snapshot.job["backend"]), {})[run_dir] = snapshot.job
    jobs: dict[Path, Job] = {}
    for name, last in given.items():
        try:
            scheduler = schedulers(name)
        except (ImportError, ValueError):  # a line of another program, or a damaged one
            continue
        jobs |= scheduler.jobs(last, last)
    return jobs


def resolve_status(snapshot: RunDirSnapshot, job: Job | None, epochs: int) -> TrialStatus:
    """One answer from what the run directory and the scheduler say; what is unknown counts as
    alive.
    """
    state, where, note = _merge_scheduler_state(snapshot, job)
    if state == "finished":
        return TrialStatus("finished", epoch=epochs)
    reached = journal.reached(snapshot.events)
    now = snapshot.position if state == "running" else None
    left = journal.seconds_left(snapshot.events, epochs) if state == "running" else None
    if left is None and now is not None and epochs:
        left = now.seconds_left(epochs)
    return TrialStatus(
        state,
        where,
        note,
        job.id if job else None,
        reached if epochs else 0,
        0 if epochs else reached,
        left,
        snapshot.heartbeat_age,
        now.step if now else 0,
        now.steps if now else 0,
        now.loss if now else None,
        journal.last_test(snapshot.events),
    )


def _merge_scheduler_state(snapshot: RunDirSnapshot, job: Job | None) -> tuple[State, str, str]:
    """State, where, note."""
    known = job.state if job else None
    if snapshot.state == "damaged":
        return "damaged", "", snapshot.damage
    if snapshot.state == "running" and snapshot.holder:
        node = job.where if job and known == "running" else ""
        return (
            "running",
            node or str(snapshot.holder["host"]),
            "asked to stop" if snapshot.cancelled else "",
        )
    if snapshot.state == "finished" or (snapshot.state == "failed" and _is_newer(snapshot)):
        return snapshot.state, "", _error(snapshot)
    if snapshot.cancelled and (known != "running" or _exited_cleanly(snapshot)):
        return "interrupted", "", "cancelled"
    if job and known in ("pending", "running"):
        where = job.where if known == "pending" else f"{job.where}, starting"
        return "waiting", where, job.hint
    if job and not _exited_cleanly(snapshot):
        if known == "unknown":
            silence = (
                f", no heartbeat for {snapshot.heartbeat_age:.0f} s"
                if snapshot.heartbeat_age is not None
                else ""
            )
            return (
                "running" if snapshot.holder else "waiting",
                job.where,
                f"the scheduler cannot be asked{silence}",
            )
        if _is_lost(snapshot):
            when = "mid-run (no exit recorded)" if snapshot.events else "before it started"
            return "lost", "", f"job {job.id} disappeared {when}"
    return snapshot.state, "", _error(snapshot)


def _exited_cleanly(snapshot: RunDirSnapshot) -> bool:
    """Its worker left it in order, after the newest submission."""
    return (
        bool(snapshot.events)
        and snapshot.events[-1]["event"] in ("interrupted", "failed")
        and _is_newer(snapshot)
    )


def _is_newer(snapshot: RunDirSnapshot) -> bool:
    """Whether the journal's last word came after the newest submission, and so is about it."""
    submitted = float(snapshot.job["time"]) if snapshot.job else 0.0
    return bool(snapshot.events) and float(snapshot.events[-1]["time"]) >= submitted


def _is_lost(snapshot: RunDirSnapshot) -> bool:
    """A holder that is known to be dead is missed at once; else what it wrote last may still be on
    its way to this machine.
    """
    if snapshot.holder is not None:
        return True
    heard = [float(snapshot.job["time"])] if snapshot.job else []
    heard += [float(snapshot.events[-1]["time"])] if snapshot.events else []
    return time.time() - max(heard, default=0.0) > SETTLED_SECONDS


def _error(snapshot: RunDirSnapshot) -> str:
    """The last line of the error that it failed with."""
    lines = (
        str(snapshot.events[-1].get("error", "")).strip().splitlines()
        if snapshot.state == "failed"
        else []
    )
    return lines[-1] if lines else ""


def describe(counts: Mapping[str, int]) -> str:
    """`3 finished, 1 running`, in the order in which a trial passes through them."""
    order = dict.fromkeys(
        (
            "finished",
            "running",
            "waiting",
            "interrupted",
            "failed",
            "damaged",
            "blocked",
            "lost",
            *counts,
        )
    )
    return ", ".join(f"{counts[state]} {state}" for state in order if counts.get(state)) or "none"
