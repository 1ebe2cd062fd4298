"""Which committed records count for a folder of runs: those of its own results folder, and those
that came with the clone, wherever `RM_RESULTS_DIR` points.

A record counts until its trial is to be trained again (`run --force`): a file `again` in the run
directory says so, and what happens there counts from then on.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from launch.paths import ROOT
from launch.runs import archive
from launch.spec.trial import Trial
from rm.files import write_atomically

AGAIN = "again"
_NAME = "reproduced"


def folders(runs: Path) -> list[Path]:
    """Where records are looked for, the results folder's own first."""
    return list(dict.fromkeys([runs.parent / _NAME, ROOT / "results" / _NAME]))


def known(runs: Path) -> dict[str, Path]:
    """Trial id -> the file that holds its record."""
    found: dict[str, Path] = {}
    for folder in reversed(folders(runs)):
        found |= archive.committed(folder)
    return found


def counted(runs: Path) -> dict[str, Path]:
    """As `known`, without those that are trained again here."""
    return {name: path for name, path in known(runs).items() if not _is_marked(runs, name)}


def former(runs: Path, trials: Iterable[Trial]) -> dict[str, int]:
    """Trial id -> the former numerics of which a record is committed."""
    wanted, found = list(trials), dict[str, int]()
    for folder in reversed(folders(runs)):
        found |= archive.former(folder, wanted)
    return found


def restore(runs: Path, wanted: Iterable[str] | None = None) -> list[Path]:
    """Make finished run directories of the records that have none and count, of these trials, or
    of all in the results folder's own file; returns those made.
    """
    own, *others = folders(runs)
    ids = list(archive.committed(own) if wanted is None else wanted)
    chosen = [name for name in ids if not _is_marked(runs, name)]
    made = archive.restore(own, runs, chosen)
    for folder in others:
        made += archive.restore(folder, runs, chosen)
    return made


def train_again(runs: Path, trial: str) -> None:
    """From now on its record does not count in this folder of runs."""
    run_dir = runs / trial
    run_dir.mkdir(parents=True, exist_ok=True)
    write_atomically(run_dir / AGAIN, "")


def _is_marked(runs: Path, trial: str) -> bool:
    return os.path.exists(f"{runs}/{trial}/{AGAIN}")  # noqa: PTH110  thousands may be asked for
