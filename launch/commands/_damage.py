"""Trials of which a file cannot be read, or is not what a worker leaves: they are named, and the
others go on.
"""

from collections.abc import Iterable
from pathlib import Path

from launch.console import say
from launch.plan import Planned
from launch.runs import parallel
from launch.runs.job import Outcome
from launch.runs.rundir import RunDir

REMEDY = "mend it, or move the run's folder away and train it anew"


def find_damaged(run_dirs: Iterable[tuple[Path, Planned]]) -> dict[Path, Outcome]:
    """Of the trials that have begun, those that cannot go on, each with its reason, which is said
    too. All their files are read for it.
    """
    begun = [(path, use) for path, use in run_dirs if use.state in ("interrupted", "failed")]
    reasons = parallel.map_io(lambda pair: RunDir(pair[0]).damage(), begun)
    found = {}
    for (path, use), reason in zip(begun, reasons, strict=True):
        if reason is not None:
            say(f"{use.label}: damaged: {reason}; {REMEDY}")
            found[path] = Outcome("failed", reason)
    return found
