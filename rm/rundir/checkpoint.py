"""Checkpoints that are whole or not there: written aside, fsynced, checksummed, renamed; the last
two are kept.
"""

import hashlib
import io
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from rm.files import UNGUARDED, Permit, sync_folder

_MAGIC = b"RMCKPT01"
_TRAILER = len(_MAGIC) + hashlib.sha256().digest_size
_NAMES = ("checkpoint.pt", "checkpoint.prev.pt")


class CheckpointError(RuntimeError):
    """A checkpoint could not be written; the ones that were there are intact."""


class _Hashed(io.RawIOBase):
    """A writable file that hashes what passes through."""

    def __init__(self, file: io.BufferedWriter) -> None:
        self.file, self.digest = file, hashlib.sha256()
        self.failure: OSError | None = (
            None  # what the file system said; torch.save raises something else
        )

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.digest.update(data)
        try:
            return self.file.write(data)
        except OSError as error:
            self.failure = error
            raise


def save(run_dir: Path, payload: dict[str, Any], permit: Permit = UNGUARDED) -> None:
    """Write `checkpoint.pt`, the former one becoming `checkpoint.prev.pt`.

    Raises CheckpointError where the disk is full or the folder not writable; nothing that was
    there is touched then.
    """
    permit.check()
    names = (*_NAMES, f"checkpoint.pt.{permit.token or os.getpid()}.tmp")
    current, previous, aside = (run_dir / name for name in names)
    hashed: _Hashed | None = None
    try:
        with aside.open("wb") as file:
            hashed = _Hashed(file)
            torch.save(payload, hashed)  # type: ignore[arg-type]
            file.write(_MAGIC + hashed.digest.digest())
            file.flush()
            os.fsync(file.fileno())
        permit.check()  # writing takes seconds, in which a suspended machine may have lost it
        if current.exists():
            current.replace(previous)
        aside.replace(current)
        sync_folder(run_dir)
    except BaseException as error:
        with suppress(OSError):
            aside.unlink(missing_ok=True)  # ours alone, also where the leave was withdrawn
        if not isinstance(error, OSError | RuntimeError):
            raise
        permit.check()
        reason = (hashed and hashed.failure) or error
        why = reason.strerror if isinstance(reason, OSError) and reason.strerror else reason
        raise CheckpointError(
            f"{current}: cannot be written ({why}); the checkpoint before it is intact"
        ) from error


def load(
    run_dir: Path, device: torch.device, on_damage: Callable[[str], None] = lambda name: None
) -> dict[str, Any] | None:
    """The newest checkpoint that is whole, or None; a damaged one falls back to the previous.

    on_damage   called with the name of each one that is there and not whole
    """
    for name in _NAMES:
        payload = _read(run_dir / name, device)
        if payload is not None:
            return payload
        if (run_dir / name).exists():
            on_damage(name)
    return None


def _read(path: Path, device: torch.device) -> dict[str, Any] | None:
    try:
        data = path.read_bytes()
    except OSError:
        return None
    body, magic, digest = (
        data[:-_TRAILER],
        data[-_TRAILER : -_TRAILER + len(_MAGIC)],
        data[-_TRAILER + len(_MAGIC) :],
    )
    if magic != _MAGIC or hashlib.sha256(body).digest() != digest:
        return None
    payload: dict[str, Any] = torch.load(io.BytesIO(body), map_location=device, weights_only=True)
    return payload
