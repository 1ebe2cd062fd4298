"""What was mirrored when: results/mirrored.json, a short cut past the tracking store where nothing
is new.

Without it everything is looked up in the store itself, which alone decides what is there.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from launch.paths import results_dir, sqlite_file, tracking_uri
from launch.runs import folder, rundir
from launch.runs.rundir import RunDir
from rm.files import write_atomically

Fingerprint = list[Any]
"""What changes whenever there is something to mirror."""


def fingerprint(run_dir: Path) -> Fingerprint:
    """State, and the sizes of journal, uses and system metrics; of a finished run only what
    another use or --force would change.
    """
    here = RunDir(run_dir)
    state = here.state()
    if state == "finished":
        last = here.last_event()
        if last is not None and last["event"] == "finished":  # else its last line is still to come
            return _finished(str(run_dir))
    sampled = _size(here.file(rundir.SYSTEM))
    return [
        state,
        _size(here.file(rundir.JOURNAL)),
        _size(here.file(rundir.USES)),
        *([sampled] if sampled > 0 else []),
    ]


def _finished(run_dir: str) -> Fingerprint:
    """One look at one file: thousands of finished runs are passed by in a moment, on network file
    systems too.
    """
    for name in (rundir.USES, rundir.JOURNAL):
        try:
            found = os.stat(f"{run_dir}/{name}")  # noqa: PTH116  a tenth of Path.stat's time
        except OSError:
            continue
        return ["finished", name, found.st_size, found.st_mtime_ns]
    return ["finished"]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


class SyncCursor:
    """The fingerprints of all run directories, as far as they hold for the present store."""

    def __init__(self, known: dict[str, Fingerprint]) -> None:
        self.known = known

    @classmethod
    def read(cls) -> "SyncCursor":
        try:
            data = json.loads(_file().read_text(encoding="utf-8"))
            return cls(data["fingerprints"] if data["store"] == _store() else {})
        except (OSError, ValueError, KeyError, TypeError):
            return cls({})

    def behind(self, run_dirs: Iterable[Path]) -> list[Path]:
        """Those of the run directories that have something new."""
        every = list(run_dirs)
        return [
            run_dir
            for run_dir, known in zip(every, folder.map_io(self._current, every), strict=True)
            if not known
        ]

    def _current(self, run_dir: Path) -> bool:
        known = self.known.get(run_dir.name)
        if known is None:
            return False
        try:
            return known == (
                _finished(str(run_dir))
                if known[0] == "finished" and len(known) == 4
                else fingerprint(run_dir)
            )
        except (
            ValueError,
            KeyError,
            TypeError,
            OSError,
        ):  # a spoilt journal: for the mirror to name
            return False

    def add(self, cursor: Mapping[Path, Fingerprint]) -> None:
        """Remember these too; whole or not at all."""
        self.known |= {run_dir.name: found for run_dir, found in cursor.items()}
        kept = json.dumps({"store": _store(), "fingerprints": self.known})
        write_atomically(_file(), kept)


def _file() -> Path:
    return results_dir() / "mirrored.json"


def _store() -> str:
    """A hash of the store's address, which may hold a password; of a file also its inode, so that
    a deleted one is noticed.
    """
    uri = tracking_uri()
    if (file := sqlite_file(uri)) is not None:
        try:
            uri += f"#{file.stat().st_ino}"
        except OSError:
            uri += "#missing"
    return hashlib.sha256(uri.encode()).hexdigest()
