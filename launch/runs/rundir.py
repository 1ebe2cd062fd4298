"""A run directory from outside: its files, its state, its journal, the request to cancel it.

The names of its files stand here alone. `RunDir` reads what a worker wrote and raises `Damaged`,
with file and line, for what it cannot have written; whoever asks for the state of many is told
`damaged` of that one, and why. Who may write is in launch/runs/lease.py.
"""

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from launch.runs import contents, journal, lease
from launch.runs.contents import Damaged
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
NOT_COPIED = (LEASE_LOCK, LEASE, "*.tmp", journal.POSITION, CHECKPOINT_BEFORE)
"""What a copy of a run directory for another machine leaves out."""


TAIL_BYTES = 4096
"""How much of a journal's end is read at first."""

CANCELLED = "cancelled"
"""The error in a worker's answer about a trial that was asked to stop, itself and not its
worker.
"""


class RunDir:
    """One run directory; nothing is read before it is asked for, and nothing is remembered but
    trial.json.
    """

    def __init__(self, path: str | Path) -> None:
        # A string: to join and ask by pathlib takes longer than the file system does, and there
        # may be ten thousand of them.
        self._at = os.fspath(path)

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
        found = contents.read_json(f"{self._at}/{TRIAL}")
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
        """The specs and rows that the trial appears in. A line that cannot be read is left out:
        the next launch of its spec writes it again.
        """
        return self._lines(USES, contents.no_use, strict=False)

    @property
    def jobs(self) -> list[dict[str, Any]]:
        """Its submissions to schedulers, `{"backend", "id", "time", ...}`, the newest last."""
        return self._lines(JOBS, contents.no_job)

    @property
    def resources(self) -> dict[str, int] | None:
        """What it is to be trained on; None where it is one GPU."""
        found: dict[str, int] | None = contents.read_json_if_there(f"{self._at}/{RESOURCES}")
        if found is not None and not contents.is_resources(found):
            raise Damaged(f"{self._at}/{RESOURCES}: not nodes and gpus")
        return found

    # What became of it.

    @property
    def result(self) -> dict[str, Any] | None:
        """result.json, which is what finished means; None before."""
        found: dict[str, Any] | None = contents.read_json_if_there(f"{self._at}/{RESULT}")
        if found is not None and not (isinstance(found, dict) and "metrics" in found):
            raise Damaged(f"{self._at}/{RESULT}: not a result")
        return found

    @property
    def provenance(self) -> list[dict[str, Any]]:
        """Its attempts: host, device, versions, commit."""
        found = contents.read_json_if_there(f"{self._at}/{PROVENANCE}") or []
        if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
            raise Damaged(f"{self._at}/{PROVENANCE}: not a list of attempts")
        return found

    @property
    def weights(self) -> Path:
        """The deployed weights of the last epoch, there once it is finished."""
        return self.file(WEIGHTS)

    def is_finished(self) -> bool:
        """Whether result.json is there and whole. One that was emptied or cut short is written
        again from the checkpoint; Damaged where there is none.
        """
        try:
            file = os.open(f"{self._at}/{RESULT}", os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            with contents.reading(f"{self._at}/{RESULT}"):
                data = os.read(file, 1 << 20)
        finally:
            os.close(file)
        if data.startswith(b"{") and data.rstrip().endswith(b"}"):
            return True
        if self.has(CHECKPOINT):
            return False
        raise Damaged(f"{self._at}/{RESULT}: cut short, and no {CHECKPOINT} to derive it from")

    def state(self) -> State:
        """finished once result.json is there; running under a live lease; else what the journal's
        last event says. `damaged` where one of these cannot be read.
        """
        try:
            return self._state()
        except (Damaged, OSError):
            return "damaged"

    def _state(self) -> State:
        if self.is_finished():
            return "finished"
        holder = self.holder()
        if holder is None and self.has(LEASE):
            lease.check_damaged(f"{self._at}/{LEASE}", f"{self._at}/{LEASE_LOCK}")
        if holder is not None and self.is_held_by(holder):
            return "running"
        return journal.state_left_by(self.last_event())

    def damage(self) -> str | None:
        """The first of its files that cannot be read, or is not what a worker leaves, with line
        and reason; None where all is well. Reads them all.
        """
        try:
            if self._state() != "finished":
                self.events()
            _ = self.jobs, self.resources, self.result
        except (Damaged, OSError) as error:
            return contents.why(error)
        return None

    def events(self, offset: int = 0) -> tuple[list[Event], int]:
        """The whole events from a byte offset on, and the offset after them. A line still being
        written is left for later.
        """
        whole = self._whole_lines(offset)
        return self._events(whole.split(b"\n"), offset), offset + len(whole)

    def readable_events(self, offset: int = 0) -> tuple[list[Event], int]:
        """As `events`, but without the lines of a damaged journal that are none."""
        try:
            whole = self._whole_lines(offset)
        except OSError:
            return [], offset
        lines = whole.split(b"\n")
        return self._events(lines, offset, strict=False), offset + len(whole)

    @contextmanager
    def _journal(self) -> Iterator[BinaryIO]:
        path = f"{self._at}/{JOURNAL}"
        with contents.reading(path), open(path, "rb") as file:  # noqa: PTH123
            yield file

    def _whole_lines(self, offset: int) -> bytes:
        try:
            with self._journal() as file:
                file.seek(offset)
                data = file.read()
        except FileNotFoundError:
            return b""
        return data[: data.rfind(b"\n") + 1]

    def last_events(self, least: int) -> list[Event]:
        """At least that many of a journal's last whole events, where it has them, without reading
        the rest of a long one.
        """
        try:
            with self._journal() as file:
                size, length = file.seek(0, os.SEEK_END), TAIL_BYTES
                while True:
                    start = file.seek(max(0, size - length))
                    data = file.read(size - start)
                    lines = data.split(b"\n")[int(start > 0) : -1]  # neither the cut nor the torn
                    if start == 0 or len(lines) >= least:
                        skipped = start + (data.index(b"\n") + 1 if start else 0)
                        return self._events(lines, skipped)
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
                # An empty one is left by a full disk, and asks for nothing.
                return any(e.name == CANCEL and e.stat().st_size > 0 for e in entries)
        except OSError:
            return False  # a file system that is away for a while must not end a training

    def clear_cancel(self) -> None:
        """Take the request back: it is wanted again."""
        self.file(CANCEL).unlink(missing_ok=True)

    # Reading.

    def _lines(self, name: str, fault: contents.Fault, *, strict: bool = True) -> list[Event]:
        """The whole lines of a file of JSON lines; a torn last one is left out."""
        try:
            with contents.reading(f"{self._at}/{name}"):
                data = self.file(name).read_bytes()
        except FileNotFoundError:
            return []
        return contents.parse_lines(
            f"{self._at}/{name}", data.split(b"\n")[:-1], fault, strict=strict
        )

    def _events(self, lines: Sequence[bytes], offset: int, *, strict: bool = True) -> list[Event]:
        """Lines of the journal that begin at a byte offset."""
        path = f"{self._at}/{JOURNAL}"
        return contents.parse_lines(path, lines, journal.fault, offset, strict=strict)
