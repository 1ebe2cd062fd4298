"""Processes as the machine lists them: those that train one run directory, and those that a test
stops in the midst of it.
"""

import contextlib
import os
import signal
import time
from pathlib import Path


def ranks_of(run_dir: Path) -> dict[int, dict[str, str]]:
    """Process -> its environment variables (RANK, SLURMD_NODENAME, ...)."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            lines = (entry / "environ").read_bytes().decode(errors="replace").split("\0")
        except OSError:  # it has ended meanwhile
            continue
        if words[-2:-1] == [str(run_dir).encode()] and b"launch.worker" in words:
            found[int(entry.name)] = dict(line.partition("=")[::2] for line in lines)
    return found


def freeze(pid: int) -> None:
    """Stop a process; once this returns it takes no step and hears no signal."""
    os.kill(pid, signal.SIGSTOP)
    while _status(pid).get("State", "T")[0] not in "TXZ":
        time.sleep(0.005)


def thaw(pid: int) -> None:
    """Let a stopped process go on, unless it is gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


def has_pending(pid: int, number: int) -> bool:
    """Whether a stopped process will hear a signal as soon as it goes on."""
    status = _status(pid)
    masks = [int(status.get(name, "0"), 16) for name in ("SigPnd", "ShdPnd")]
    return any(mask >> (number - 1) & 1 for mask in masks)


def _status(pid: int) -> dict[str, str]:
    """Of /proc; empty where the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
