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


def is_gone(pid: int) -> bool:
    """Whether it has ended; one that nobody has waited for yet (a zombie) has too."""
    return _status(pid).get("State", "X")[0] in "XZ"


def parent_of(pid: int) -> int | None:
    """None where the process is gone."""
    parent = _status(pid).get("PPid")
    return int(parent) if parent else None


def children_of(pid: int) -> list[int]:
    """Those that its main thread started; none where it is gone."""
    return [int(word) for word in _read(pid, f"task/{pid}/children").split()]


def words_of(pid: int) -> list[str]:
    """Its command line; empty where it is gone."""
    return _read(pid, "cmdline").split("\0")[:-1]


def kernel_function(pid: int) -> str:
    """Where in the kernel it sleeps; empty where it runs or is gone."""
    return _read(pid, "wchan")


def _status(pid: int) -> dict[str, str]:
    """Of /proc; empty where the process is gone."""
    lines = _read(pid, "status").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _read(pid: int, name: str) -> str:
    """A file of /proc; empty where the process is gone: before the file is opened
    (FileNotFoundError) or between that and reading it (ProcessLookupError).
    """
    try:
        return Path(f"/proc/{pid}/{name}").read_text()
    except OSError:
        return ""
