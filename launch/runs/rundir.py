"""A run directory from outside: its state, its journal from an offset, the request to cancel it,
and its lease.

The lease keeps two workers out of one directory; its holder looks for the request.
"""

import fcntl
import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from launch.runs import parallel

State = Literal["waiting", "running", "interrupted", "failed", "finished"]

HEARTBEAT_SECONDS = 15.0
CANCEL_SECONDS = 2.0
"""How often the holder of a lease looks whether it is asked to stop."""
STALE_SECONDS = 180.0
"""A lease from another machine counts as abandoned after this long without a heartbeat."""


TAIL_BYTES = 4096
"""How much of a journal's end is read at first."""

CANCELLED = "cancelled"
"""The error in a worker's answer about a trial that was asked to stop, itself and not its
worker.
"""


class Busy(Exception):
    """Another worker holds the lease of this run directory."""


def state(run_dir: Path) -> State:
    """finished once result.json is there; running under a live lease; else what the journal's last
    word says.
    """
    if (run_dir / "result.json").exists():
        return "finished"
    holder = read_lease(run_dir)
    if holder is not None and is_alive(holder, run_dir):
        return "running"
    return state_left_by(last_event(run_dir))


def finished(runs: Path, names: Sequence[str]) -> set[str]:
    """Which of the run directories of these names in the folder `runs` are finished: one question
    each.
    """

    def is_there(name: str) -> bool:
        return os.path.exists(f"{runs}/{name}/result.json")  # noqa: PTH110  a Path costs more than the question

    return {
        name for name, found in zip(names, parallel.map_io(is_there, names), strict=True) if found
    }


def state_left_by(last: dict[str, Any] | None) -> State:
    """The state of a run that nobody works on, by the journal's last event."""
    if last is None:
        return "waiting"
    return "failed" if last["event"] == "failed" else "interrupted"


def read_events(run_dir: Path, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
    """The whole events from a byte offset on, and the offset after them. A line still being
    written is left for later.
    """
    try:
        with (run_dir / "journal.jsonl").open("rb") as file:
            file.seek(offset)
            data = file.read()
    except FileNotFoundError:
        return [], offset
    whole = data[: data.rfind(b"\n") + 1]
    return [json.loads(line) for line in whole.splitlines() if line], offset + len(whole)


def last_event(run_dir: Path) -> dict[str, Any] | None:
    """The journal's last whole event."""
    events = last_events(run_dir, 1)
    return events[-1] if events else None


def last_events(run_dir: Path, least: int) -> list[dict[str, Any]]:
    """At least that many of a journal's last whole events, where it has them, without reading the
    rest of a long one.
    """
    try:
        with (run_dir / "journal.jsonl").open("rb") as file:
            size, length = file.seek(0, os.SEEK_END), TAIL_BYTES
            while True:
                start = file.seek(max(0, size - length))
                lines = file.read(size - start).split(b"\n")[
                    int(start > 0) : -1
                ]  # neither the cut nor the torn one
                if start == 0 or len(lines) >= least:
                    return [json.loads(line) for line in lines if line]
                length *= 4
    except FileNotFoundError:
        return []


def request_cancel(run_dir: Path) -> None:
    """Ask whoever works on this run directory, now or after a wait in a queue, to checkpoint and
    leave it.
    """
    me = _me()
    text = json.dumps({"host": me["host"], "pid": me["pid"], "time": me["since"]})
    (run_dir / "cancel").write_text(text + "\n", encoding="utf-8")


def cancelled(run_dir: Path) -> bool:
    """Whether it was asked to stop, and nobody has asked for it to go on since.

    Lists the directory: NFS may answer from memory, for half a minute, that a file is not there.
    """
    try:
        with os.scandir(run_dir) as entries:
            return any(entry.name == "cancel" for entry in entries)
    except OSError:
        return False  # a file system that is away for a while must not end a training


def clear_cancel(run_dir: Path) -> None:
    """Take the request back: it is wanted again."""
    (run_dir / "cancel").unlink(missing_ok=True)


@contextmanager
def lease(run_dir: Path) -> Iterator[Callable[[], bool]]:
    """Hold the run directory while the block runs; raises Busy where a live worker holds it.

    Yields a question that costs nothing: whether this run directory was asked to stop (looked up
    every CANCEL_SECONDS). The holder writes who it is and touches the file every
    HEARTBEAT_SECONDS. A lease is taken over when its process is gone (same machine) or its
    heartbeat is older than STALE_SECONDS by the file system's own clock (another machine).
    """
    path, token = run_dir / "lease.json", uuid.uuid4().hex
    with _guard(run_dir):
        holder = read_lease(run_dir)
        if holder is not None and is_alive(holder, run_dir):
            raise Busy(f"{run_dir}: worked on by process {holder['pid']} on {holder['host']}")
        aside = run_dir / f"lease.{token}.tmp"
        aside.write_text(json.dumps({"token": token, **_me()}), encoding="utf-8")
        aside.replace(path)
    done, asked = threading.Event(), threading.Event()
    if cancelled(run_dir):
        asked.set()
    beat = threading.Thread(target=_heartbeat, args=(path, done, asked), daemon=True)
    beat.start()
    try:
        yield asked.is_set
    finally:
        done.set()
        with _guard(run_dir):
            holder = read_lease(run_dir)
            if holder is not None and holder["token"] == token:
                path.unlink(missing_ok=True)


def _heartbeat(path: Path, done: threading.Event, asked: threading.Event) -> None:
    last = time.monotonic()
    while not done.wait(CANCEL_SECONDS):
        if cancelled(path.parent):
            asked.set()
        if time.monotonic() - last < HEARTBEAT_SECONDS:
            continue
        last = time.monotonic()
        try:
            os.utime(path)
        except OSError:
            continue  # a file system that is away for a while must not end a training


@contextmanager
def _guard(run_dir: Path) -> Iterator[None]:
    """Serialises looking at a lease and replacing it, between processes and (NFS) machines."""
    with (run_dir / ".lease.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.utime(run_dir / ".lease.lock")  # its time is the file system's now
        yield


def read_lease(run_dir: Path) -> dict[str, Any] | None:
    """Who holds the run directory, or held it when its process ended without a word: host, pid,
    since.
    """
    try:
        holder: dict[str, Any] = json.loads((run_dir / "lease.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return holder


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
    pid does not share.
    """
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def is_alive(holder: dict[str, Any], run_dir: Path) -> bool:
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
        return bool(holder["born"] == _born(holder["pid"]))
    try:
        beat = (run_dir / "lease.json").stat().st_mtime
        return max(time.time(), (run_dir / ".lease.lock").stat().st_mtime) - beat < STALE_SECONDS
    except OSError:
        return False
