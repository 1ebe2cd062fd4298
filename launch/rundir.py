"""A run directory from outside: its state, its journal from an offset, and the lease that keeps two workers out of it."""

import fcntl
import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

State = Literal["waiting", "running", "interrupted", "failed", "finished"]

HEARTBEAT_SECONDS = 15.0
STALE_SECONDS = 180.0
"""A lease from another machine counts as abandoned after this long without a heartbeat."""


class Busy(Exception):
    """Another worker holds the lease of this run directory."""


def state(run_dir: Path) -> State:
    """finished once result.json is there; running under a live lease; else what the journal's last word says."""
    if (run_dir / "result.json").exists():
        return "finished"
    holder = _read_lease(run_dir)
    if holder is not None and _alive(holder, run_dir):
        return "running"
    last = last_event(run_dir)
    if last is None:
        return "waiting"
    return "failed" if last["event"] == "failed" else "interrupted"


def read_events(run_dir: Path, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
    """The whole events from a byte offset on, and the offset after them. A line still being written is left for later."""
    try:
        with (run_dir / "journal.jsonl").open("rb") as file:
            file.seek(offset)
            data = file.read()
    except FileNotFoundError:
        return [], offset
    whole = data[: data.rfind(b"\n") + 1]
    return [json.loads(line) for line in whole.splitlines() if line], offset + len(whole)


def last_event(run_dir: Path) -> dict[str, Any] | None:
    events, _ = read_events(run_dir)
    return events[-1] if events else None


@contextmanager
def lease(run_dir: Path) -> Iterator[None]:
    """Hold the run directory while the block runs; raises Busy where a live worker holds it.

    The holder writes who it is and touches the file every HEARTBEAT_SECONDS. A lease is taken over when its process is gone
    (same machine) or its heartbeat is older than STALE_SECONDS by the file system's own clock (another machine).
    """
    path, token = run_dir / "lease.json", uuid.uuid4().hex
    with _guard(run_dir):
        holder = _read_lease(run_dir)
        if holder is not None and _alive(holder, run_dir):
            raise Busy(f"{run_dir}: worked on by process {holder['pid']} on {holder['host']}")
        aside = run_dir / f"lease.{token}.tmp"
        aside.write_text(json.dumps({"token": token, **_me()}), encoding="utf-8")
        aside.replace(path)
    done = threading.Event()
    beat = threading.Thread(target=_heartbeat, args=(path, done), daemon=True)
    beat.start()
    try:
        yield
    finally:
        done.set()
        with _guard(run_dir):
            holder = _read_lease(run_dir)
            if holder is not None and holder["token"] == token:
                path.unlink(missing_ok=True)


def _heartbeat(path: Path, done: threading.Event) -> None:
    while not done.wait(HEARTBEAT_SECONDS):
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


def _read_lease(run_dir: Path) -> dict[str, Any] | None:
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
    """When a process started, in its kernel's ticks: a number that a later process with the same pid does not share."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def _alive(holder: dict[str, Any], run_dir: Path) -> bool:
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
