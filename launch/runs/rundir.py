"""A run directory from outside: its files, its state, its journal, the request to cancel it.

The names of its files stand here alone. `RunDir` reads what a worker wrote and raises `Damaged`,
with file and line, for what it cannot have written. Who may write is in launch/runs/lease.py.
"""

import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import Any

from launch.runs import journal, lease, parallel
from launch.runs.journal import Event, State
from rm.files import write_atomically

TRIAL = "trial.json"
USES = "uses.jsonl"
RESOURCES = "resources.json"
JOBS = "jobs.jsonl"
PROVENANCE = "provenance.json"
JOURNAL = "journal.jsonl"
CHECKPOINT = "checkpoint.pt"
CHECKPOINT_BEFORE = "checkpoint.prev.pt"
WEIGHTS = "weights.pt"
BEST_WEIGHTS = "weights.best.pt"
RESULT = "result.json"
LOG = "log.txt"
SYSTEM = "system.jsonl"
ORIGIN = "origin.json"
ARTIFACTS = "artifacts"
CANCEL = "cancel"
LEASE = "lease.json"
LEASE_LOCK = ".lease.lock"

RECORD_FILES = (TRIAL, USES, PROVENANCE, JOURNAL, RESULT)
"""What a committed record is made of: small files, no weights."""
NOT_COPIED = (LEASE_LOCK, LEASE, "*.tmp", CHECKPOINT_BEFORE)
"""What a copy of a run directory for another machine leaves out."""


TAIL_BYTES = 4096
"""How much of a journal's end is read at first."""

CANCELLED = "cancelled"
"""The error in a worker's answer about a trial that was asked to stop, itself and not its
worker.
"""


class Damaged(ValueError):
    """A file of a run directory is not what a worker, whole or killed, leaves; names the line."""


class RunDir:
    """One run directory; nothing is read before it is asked for, and nothing is remembered but
    trial.json.
    """

    def __init__(self, path: str | Path) -> None:
        # A string: to join and ask by pathlib takes longer than the file system does, and there
        # may be ten thousand of them.
        self._at = os.fspath(path)

    def __repr__(self) -> str:
        return f"RunDir({self._at!r})"

    @property
    def path(self) -> Path:
        return Path(self._at)

    @property
    def id(self) -> str:
        """The trial's id, after which the folder is named."""
        return os.path.basename(self._at)  # noqa: PTH119  see __init__

    def file(self, name: str) -> Path:
        """One of the names above."""
        return Path(self._at, name)

    def has(self, name: str) -> bool:
        """Whether a file of that name is there."""
        return os.path.exists(f"{self._at}/{name}")  # noqa: PTH110  see __init__

    # What it is to be.

    @cached_property
    def trial(self) -> dict[str, Any]:
        """The trial's resolved values, its id and numerics; OSError or Damaged where it cannot be
        read.
        """
        found = self._json(TRIAL)
        if not isinstance(found, dict):
            raise Damaged(f"{self._at}/{TRIAL}: not a trial")
        return found

    @property
    def epochs(self) -> int:
        """How many epochs the trial trains; 0 for a probe, which has none."""
        return 0 if self.is_probe else int(self.trial["train"]["epochs"])

    @property
    def is_probe(self) -> bool:
        """Whether it is measured instead of trained."""
        return "probe" in self.trial

    @property
    def parents(self) -> tuple[Path, ...]:
        """The run directories of the trials that this one starts from."""
        start = self.trial.get("init") or {}
        return (Path(self._at).parent / str(start["trial"]),) if "trial" in start else ()

    @property
    def uses(self) -> list[dict[str, Any]]:
        """The specs and rows that the trial appears in."""
        return self._lines(USES)

    @property
    def jobs(self) -> list[dict[str, Any]]:
        """Its submissions to schedulers, `{"backend", "id", "time", ...}`, the newest last."""
        return self._lines(JOBS)

    @property
    def resources(self) -> dict[str, int] | None:
        """What it is to be trained on; None where it is one GPU."""
        found: dict[str, int] | None = self._json_or_none(RESOURCES)
        return found

    # What became of it.

    @property
    def result(self) -> dict[str, Any] | None:
        """result.json, which is what finished means; None before."""
        found: dict[str, Any] | None = self._json_or_none(RESULT)
        return found

    @property
    def provenance(self) -> list[dict[str, Any]]:
        """Its attempts: host, device, versions, commit."""
        return self._json_or_none(PROVENANCE) or []

    @property
    def origin(self) -> dict[str, Any] | None:
        """Of which committed record it was made; None where it was run here."""
        found: dict[str, Any] | None = self._json_or_none(ORIGIN)
        return found

    @property
    def weights(self) -> Path:
        """The deployed weights of the last epoch, there once it is finished."""
        return self.file(WEIGHTS)

    def state(self) -> State:
        """finished once result.json is there; running under a live lease; else what the journal's
        last event says.
        """
        if self.has(RESULT):
            return "finished"
        holder = self.holder()
        if holder is not None and self.is_held_by(holder):
            return "running"
        return journal.state_left_by(self.last_event())

    def events(self, offset: int = 0) -> tuple[list[Event], int]:
        """The whole events from a byte offset on, and the offset after them. A line still being
        written is left for later.
        """
        try:
            with self.file(JOURNAL).open("rb") as file:
                file.seek(offset)
                data = file.read()
        except FileNotFoundError:
            return [], offset
        whole = data[: data.rfind(b"\n") + 1]
        return self._parsed(JOURNAL, whole.split(b"\n"), offset), offset + len(whole)

    def last_events(self, least: int) -> list[Event]:
        """At least that many of a journal's last whole events, where it has them, without reading
        the rest of a long one.
        """
        try:
            with self.file(JOURNAL).open("rb") as file:
                size, length = file.seek(0, os.SEEK_END), TAIL_BYTES
                while True:
                    start = file.seek(max(0, size - length))
                    data = file.read(size - start)
                    lines = data.split(b"\n")[int(start > 0) : -1]  # neither the cut nor the torn
                    if start == 0 or len(lines) >= least:
                        skipped = start + (data.index(b"\n") + 1 if start else 0)
                        return self._parsed(JOURNAL, lines, skipped)
                    length *= 4
        except FileNotFoundError:
            return []

    def last_event(self) -> Event | None:
        """The journal's last whole event."""
        events = self.last_events(1)
        return events[-1] if events else None

    def position(self) -> list[int]:
        """[epoch, step] from which a start would resume, as the journal says; the beginning where
        it cannot be read.
        """
        try:
            return journal.position(self.events()[0])
        except (OSError, Damaged):
            return journal.position(())

    # Who is at it, and who wants it to stop.

    def lease(self) -> AbstractContextManager[lease.Lease]:
        """Hold the run directory while the block runs; see launch/runs/lease.py."""
        return lease.hold(self.file(LEASE), self.file(LEASE_LOCK), self.cancelled)

    def holder(self) -> dict[str, Any] | None:
        """Who holds it, or held it when its process ended without a word: host, pid, since."""
        return lease.read(f"{self._at}/{LEASE}")

    def is_held_by(self, holder: Mapping[str, Any]) -> bool:
        """Whether the holder still works."""
        return lease.is_alive(holder, f"{self._at}/{LEASE}", f"{self._at}/{LEASE_LOCK}")

    def request_cancel(self) -> None:
        """Ask whoever works on it, now or after a wait in a queue, to checkpoint and leave it."""
        request = {"host": os.uname().nodename, "pid": os.getpid(), "time": round(time.time(), 3)}
        write_atomically(self.file(CANCEL), json.dumps(request) + "\n")

    def cancelled(self) -> bool:
        """Whether it was asked to stop, and nobody has asked for it to go on since.

        Lists the directory: NFS may answer from memory, for half a minute, that a file is not
        there.
        """
        try:
            with os.scandir(self._at) as entries:
                return any(entry.name == CANCEL for entry in entries)
        except OSError:
            return False  # a file system that is away for a while must not end a training

    def clear_cancel(self) -> None:
        """Take the request back: it is wanted again."""
        self.file(CANCEL).unlink(missing_ok=True)

    # Reading.

    def _json(self, name: str) -> Any:
        with self.file(name).open("rb") as file:
            data = file.read()
        try:
            return json.loads(data)
        except ValueError as error:
            raise Damaged(f"{self._at}/{name}: not JSON ({error})") from None

    def _json_or_none(self, name: str) -> Any:
        try:
            return self._json(name)
        except FileNotFoundError:
            return None

    def _lines(self, name: str) -> list[dict[str, Any]]:
        """The whole lines of a file of JSON lines; a torn last one is left out."""
        try:
            data = self.file(name).read_bytes()
        except FileNotFoundError:
            return []
        return self._parsed(name, data.split(b"\n")[:-1], 0)

    def _parsed(self, name: str, lines: Sequence[bytes], offset: int) -> list[dict[str, Any]]:
        """Lines that begin at a byte offset of a file."""
        found = []
        try:
            for line in lines:
                if line:
                    found.append(json.loads(line))
        except ValueError as error:
            before = self.file(name).read_bytes()[:offset].count(b"\n")
            number = before + lines.index(line) + 1
            raise Damaged(f"{self._at}/{name}:{number}: not JSON ({error})") from None
        return found


def state_of(run_dir: Path) -> State:
    """The state of a run directory, for whoever wants a function."""
    return RunDir(run_dir).state()


def names(runs: Path) -> set[str]:
    """What is in the folder of all runs, by one listing: what is not there need not be asked
    for.
    """
    try:
        with os.scandir(runs) as entries:
            return {entry.name for entry in entries}
    except FileNotFoundError:
        return set()


def finished(runs: Path, names: Sequence[str]) -> set[str]:
    """Which of the run directories of these names in the folder `runs` are finished: one question
    each.
    """
    there = parallel.map_io(lambda name: RunDir(f"{runs}/{name}").has(RESULT), names)
    return {name for name, found in zip(names, there, strict=True) if found}
