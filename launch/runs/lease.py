"""The lease that keeps two workers out of one run directory; its holder looks for the request to
stop.

A lease is a token. The holder writes it with who it is, touches the file every HEARTBEAT_SECONDS,
and looks right before each write into the run directory (`permit`) whether the token is still its
own: one that was suspended for long finds another's, raises Lost and leaves all as it is. Between
that look and the write a moment is left; nothing that a file system offers closes it.

A lease is taken over when its process is gone (same machine) or its heartbeat is older than
STALE_SECONDS (another machine). Both the heartbeat and "now" are the file system's clock: no
machine's own clock counts.
"""

import fcntl
import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from launch.runs.contents import Damaged
from rm.files import Permit, write_atomically

HEARTBEAT_SECONDS = 15.0
CANCEL_SECONDS = 2.0
"""How often the holder of a lease looks whether it is asked to stop."""
STALE_SECONDS = 180.0
"""A lease from another machine counts as abandoned after this long without a heartbeat."""
LOCK_SECONDS = 60.0
"""Looking at a lease and replacing it takes milliseconds; who holds the lock for longer stands
still.
"""
_FIELDS = ("token", "host", "machine", "pid", "born")
_WRITTEN_BY_WORKERS = (
    "checkpoint.",
    "weights.",
    "result.json.",
    "provenance.json.",
    "lease.json.",
)


class Busy(Exception):
    """Another worker holds the lease of this run directory."""


class Lost(Exception):
    """Another worker has taken this lease over: whoever had it must not write any more."""


class Lease:
    """A run directory that is ours; the token tells it from everyone else's."""

    def __init__(self, path: Path, lock: Path, wants_stop: Callable[[], bool]) -> None:
        self.path, self.lock, self.wants_stop = path, lock, wants_stop
        self.token = uuid.uuid4().hex
        self._done, self._asked = threading.Event(), threading.Event()

    def cancelled(self) -> bool:
        """Whether this run directory was asked to stop; costs nothing, as a thread looks every
        CANCEL_SECONDS.
        """
        return self._asked.is_set()

    @property
    def permit(self) -> Permit:
        """Leave to write, as long as the lease is ours."""
        return permit(self.path, self.token)

    def take(self) -> None:
        """Raises Busy where a live worker holds it, or may."""
        with _guard(self.lock):
            holder = read(self.path)
            if holder is None:
                try:
                    check_damaged(self.path, self.lock)
                except Damaged as error:
                    raise Busy(str(error)) from None
            if holder is not None and is_alive(holder, self.path, self.lock):
                raise Busy(f"{self.path.parent}: worked on by {self._name(holder)}")
            text = json.dumps({"token": self.token, **_me()})
            # After a power cut it may be gone, as its process is, but not there and empty.
            write_atomically(self.path, text, Permit(self.token), survives="sync of folder")
            self._remove_leftovers()
        self._look()
        threading.Thread(target=self._beat, daemon=True).start()

    def _name(self, holder: Mapping[str, Any]) -> str:
        name = f"process {holder['pid']} on {holder['host']}"
        if holder["machine"] == _machine(os.getpid()):
            return name
        return (
            f"{name}, whose last heartbeat is {_age(self.path, self.lock):.0f} s old; it can be "
            f"taken over after {STALE_SECONDS:.0f} s without one"
        )

    def _remove_leftovers(self) -> None:
        """What killed workers were writing. One that is only suspended finds its lease lost."""
        for entry in os.scandir(self.path.parent):
            name = entry.name
            if name.endswith(".tmp") and name.startswith(_WRITTEN_BY_WORKERS):
                with suppress(OSError):
                    os.unlink(entry.path)  # noqa: PTH108

    def give_up(self) -> None:
        """Remove it, if it is still ours."""
        self._done.set()
        try:
            with _guard(self.lock):
                self._remove()
        except Busy:
            self._remove()

    def _remove(self) -> None:
        holder = read(self.path)
        if holder is not None and holder["token"] == self.token:
            self.path.unlink(missing_ok=True)

    def _look(self) -> None:
        if self.wants_stop():
            self._asked.set()

    def _beat(self) -> None:
        last = time.monotonic()
        while not self._done.wait(CANCEL_SECONDS):
            self._look()
            if time.monotonic() - last < HEARTBEAT_SECONDS:
                continue
            last = time.monotonic()
            # A file system that is away for a while must not end a training.
            with suppress(OSError), self.path.open("rb") as file:
                # This very file: by its name it could be the successor's by now.
                if _parsed(file.read(), self.token) is not None:
                    os.utime(file.fileno())


@contextmanager
def hold(path: Path, lock: Path, wants_stop: Callable[[], bool]) -> Iterator[Lease]:
    """Hold the lease at `path` while the block runs; raises Busy where a live worker holds it.

    wants_stop   asked every CANCEL_SECONDS: whether the run directory is cancelled
    """
    ours = Lease(path, lock, wants_stop)
    ours.take()
    try:
        yield ours
    finally:
        ours.give_up()


def permit(path: Path, token: str) -> Permit:
    """Leave to write into the run directory of a lease, as long as it holds this token."""

    def check() -> None:
        with suppress(FileNotFoundError):
            if _parsed(path.read_bytes(), token) is not None:
                return
        raise Lost(f"{path.parent}: another worker has taken over; this one stops writing there")

    return Permit(token, check)


def read(path: str | Path) -> dict[str, Any] | None:
    """Who holds a lease, None where nobody does or it is damaged."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123  `status` asks for ten thousand of them
            return _parsed(file.read())
    except OSError:
        return None


def _parsed(data: bytes, token: str | None = None) -> dict[str, Any] | None:
    """The content of a lease, where it is one; of one with this token."""
    try:
        holder = json.loads(data)
    except ValueError:
        return None
    if not isinstance(holder, dict) or any(field not in holder for field in _FIELDS):
        return None
    if not isinstance(holder["pid"], int) or token not in (None, holder["token"]):
        return None
    return holder


def is_alive(holder: Mapping[str, Any], path: str | Path, lock: str | Path) -> bool:
    """Whether the holder of a lease still works: by its process on this machine, by its heartbeat
    on another one.
    """
    if holder["machine"] == _machine(os.getpid()):
        try:
            os.kill(holder["pid"], 0)
        except ProcessLookupError:
            return False
        except (PermissionError, OverflowError):
            pass
        return bool(_born(holder["pid"]) == holder["born"])
    try:
        return _age(path, lock) < STALE_SECONDS
    except OSError:
        return False


def _age(path: str | Path, lock: str | Path) -> float:
    """Seconds since the last heartbeat, by the file system's clock: touching a file tells it. One
    who may not write there, and so cannot take the lease either, asks its own clock.
    """
    beat = Path(path).stat().st_mtime
    try:
        os.utime(lock)
        now = Path(lock).stat().st_mtime
    except OSError:
        now = time.time()
    if now < beat:
        # From the future: the clock was set back. Let it age from now on; who is alive soon says
        # so again.
        with suppress(OSError):
            os.utime(path)
    return max(0.0, now - beat)


def check_damaged(path: str | Path, lock: str | Path) -> None:
    """Raise Damaged for a lease that is there, cannot be read, and is not stale yet."""
    try:
        age = _age(path, lock)
    except FileNotFoundError:
        return
    if age < STALE_SECONDS:
        raise Damaged(
            f"{path}: not a lease; if nobody works there it can be taken in "
            f"{STALE_SECONDS - age:.0f} s"
        )


@contextmanager
def _guard(path: Path) -> Iterator[None]:
    """Serialises looking at a lease and replacing it, between processes and (NFS) machines; Busy
    where that takes too long.
    """
    with path.open("a") as lock:
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise Busy(f"{path}: locked for {LOCK_SECONDS:.0f} s") from None
                time.sleep(0.01)
        yield


def _me() -> dict[str, Any]:
    pid = os.getpid()
    return {
        "host": platform.node(),
        "machine": _machine(pid),
        "pid": pid,
        "born": _born(pid),
        "since": round(time.time(), 3),
    }


@cache
def _machine(pid: int) -> str:
    """Tells apart machines, their boots, and containers with their own process numbers; where the
    process of this number, the caller's own, works.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{platform.node()}/{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return platform.node()


def _born(pid: int) -> str | None:
    """When a process started, in its kernel's ticks: a number that a later process with the same
    pid does not share. None where it has ended.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    except OSError:
        return None
    # A killed process whose parent was killed too is a zombie for ever in a container that has
    # no init: it answers to kill(pid, 0), and works no more.
    return None if len(stat) < 20 or stat[0] in "ZX" else stat[19]
