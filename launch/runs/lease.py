"""The lease that keeps two workers out of one run directory; its holder looks for the request to
stop.

The holder writes who it is and touches the file every HEARTBEAT_SECONDS. A lease is taken over
when its process is gone (same machine) or its heartbeat is older than STALE_SECONDS by the file
system's own clock (another machine).
"""

import fcntl
import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rm.files import write_atomically

HEARTBEAT_SECONDS = 15.0
CANCEL_SECONDS = 2.0
"""How often the holder of a lease looks whether it is asked to stop."""
STALE_SECONDS = 180.0
"""A lease from another machine counts as abandoned after this long without a heartbeat."""


class Busy(Exception):
    """Another worker holds the lease of this run directory."""


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

    def take(self) -> None:
        """Raises Busy where a live worker holds it."""
        with _guard(self.lock):
            holder = read(self.path)
            if holder is not None and is_alive(holder, self.path, self.lock):
                where = f"process {holder['pid']} on {holder['host']}"
                raise Busy(f"{self.path.parent}: worked on by {where}")
            text = json.dumps({"token": self.token, **_me()})
            write_atomically(self.path, text, token=self.token)
        self._look()
        threading.Thread(target=self._beat, daemon=True).start()

    def give_up(self) -> None:
        """Remove it, if it is still ours."""
        self._done.set()
        with _guard(self.lock):
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
            try:
                os.utime(self.path)
            except OSError:
                continue  # a file system that is away for a while must not end a training


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


def read(path: str | Path) -> dict[str, Any] | None:
    """Who holds a lease, None where nobody does."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123  `status` asks for ten thousand of them
            holder: dict[str, Any] = json.loads(file.read())
    except (OSError, ValueError):
        return None
    return holder


def is_alive(holder: Mapping[str, Any], path: str | Path, lock: str | Path) -> bool:
    """Whether the holder of a lease still works: by its process on this machine, by its heartbeat
    on another one.
    """
    if holder["machine"] == _machine():
        try:
            os.kill(holder["pid"], 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return bool(_born(holder["pid"]) == holder["born"])
    try:
        beat, now = Path(path).stat().st_mtime, Path(lock).stat().st_mtime
        return max(time.time(), now) - beat < STALE_SECONDS
    except OSError:
        return False


@contextmanager
def _guard(path: Path) -> Iterator[None]:
    """Serialises looking at a lease and replacing it, between processes and (NFS) machines."""
    with path.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.utime(path)  # its time is the file system's now
        yield


def _me() -> dict[str, Any]:
    pid = os.getpid()
    return {
        "host": platform.node(),
        "machine": _machine(),
        "pid": pid,
        "born": _born(pid),
        "since": round(time.time(), 3),
    }


def _machine() -> str:
    """Tells apart machines, their boots, and containers with their own process numbers."""
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
