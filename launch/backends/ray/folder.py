"""The folder of a Ray that we start: it goes when that Ray ends, and what a killed command left is
removed by the next one.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

PREFIX = "rm-ray-"
_LONGEST = 24
"""Ray puts sockets some 75 characters deep into its folder; a socket's path has at most 107."""
_OWNER = "owner.lock"


class RayFolder:
    """Held by a lock on a file in it, which ends with this process however that ends."""

    def __init__(self) -> None:
        base = Path(tempfile.gettempdir())
        base = base if len(str(base)) <= _LONGEST else Path("/tmp")
        _sweep(base)
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
        # Locked before it has its name: no other command may find it without an owner.
        if owner := _locked(self.path / "owner.tmp"):
            (self.path / "owner.tmp").rename(self.path / _OWNER)
        self._owner = owner

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        if self._owner:
            self._owner.close()


@contextmanager
def ray_folder() -> Iterator[Path]:
    """A folder for the Ray of the block."""
    folder = RayFolder()
    try:
        yield folder.path
    finally:
        folder.remove()


def _sweep(base: Path) -> None:
    """Remove the folders of commands that were killed."""
    for owner in base.glob(f"{PREFIX}*/{_OWNER}"):
        if (file := _locked(owner)) is not None:
            shutil.rmtree(owner.parent, ignore_errors=True)
            file.close()


def _locked(path: Path) -> TextIO | None:
    """The file, locked by us; None where somebody else has it, or it is not ours to open."""
    try:
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+")
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file
