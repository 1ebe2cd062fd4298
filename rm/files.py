"""Small files that survive a crash: one atomic writer, one line appender.

Standard library only. Both honour the umask, so that a group's shared folder stays shared.
"""

import ctypes
import errno
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple


class Permit(NamedTuple):
    """Leave to write into a run directory.

    token   goes into temporary names, so that two writers never share one
    check   raises where the leave was withdrawn; asked right before each write
    """

    token: str = ""
    check: Callable[[], None] = lambda: None


UNGUARDED = Permit()


def write_atomically(
    path: Path,
    data: str | bytes,
    permit: Permit = UNGUARDED,
    *,
    survives: Literal["power cut", "sync of folder", "kill"] = "power cut",
) -> None:
    """Replace a file: readers see the old one or the new one, whole, after a power cut too.

    survives   "sync of folder": its name is on the disk only with the next sync of its folder; a
               power cut before that leaves the file before, or none. "kill": of its writer, no
               more; nothing waits for the disk
    """
    aside = path.with_name(f"{path.name}.{permit.token or secrets.token_hex(6)}.tmp")
    try:
        with aside.open("wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            if survives != "kill":
                file.flush()
                os.fsync(file.fileno())
        permit.check()
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    if survives == "power cut":
        sync_folder(path.parent)


def append_line(path: Path, line: str, *, durable: bool = True) -> None:
    """Append one line in a single write; a torn last line, left by a crash, is cut off first.

    Raises OSError (ENOSPC) where the disk is full; what was written of the line is taken back.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        cut_torn_line(handle)
        append_to(handle, line, path)
        if durable:
            os.fsync(handle)
    finally:
        os.close(handle)


def append_to(handle: int, line: str, path: Path) -> None:
    """Write a line, its newline included, to a file opened with O_APPEND, all of it or none."""
    data = f"{line}\n".encode()
    written = os.write(handle, data)
    if written < len(data):  # a full disk writes what fits: take it back, so the file stays whole
        os.ftruncate(handle, os.fstat(handle).st_size - written)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def cut_torn_line(handle: int) -> None:
    """Cut off what follows the last newline of an open file."""
    size = end = os.fstat(handle).st_size
    while end:
        start = max(0, end - 4096)
        newline = os.pread(handle, end - start, start).rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    if end < size:
        os.ftruncate(handle, end)


def sync_folder(folder: Path) -> None:
    """Make a rename in this folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_filesystem(folder: Path) -> None:
    """Make all that was written to the file system of this folder durable.

    One call (Linux's syncfs) for many small files; one fsync for each of hundreds takes longer.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
        if syncfs is None:
            os.sync()
        elif syncfs(handle):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(folder))
    finally:
        os.close(handle)
