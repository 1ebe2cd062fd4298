"""Trials of which a file cannot be read or written, or is not what a worker leaves: they are
named, and the others go on.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from launch.console import say
from launch.plan import Planned
from launch.runs import folder
from launch.runs.job import Outcome
from launch.runs.rundir import RunDir

REMEDY = "mend it, or move the run's folder away and train it anew"


def find_damaged(run_dirs: Iterable[tuple[Path, Planned]]) -> dict[Path, Outcome]:
    """Of the trials that have begun, those that cannot go on, each with its reason, which is said
    too. All their files are read for it.
    """
    begun = [(path, use) for path, use in run_dirs if use.state in ("interrupted", "failed")]
    reasons = folder.map_io(lambda pair: RunDir(pair[0]).damage(), begun)
    found = {}
    for (path, use), reason in zip(begun, reasons, strict=True):
        if reason is not None:
            say(f"{use.label}: damaged: {reason}; {REMEDY}")
            found[path] = Outcome("failed", reason)
    return found


def how_to_retry(ended: Mapping[Path, Outcome]) -> str:
    """What takes failed trials up again: `retry` those of which the disk says that they failed; a
    full one could not say so.
    """
    failed = [run_dir for run_dir, outcome in ended.items() if outcome.status == "failed"]
    states = [RunDir(run_dir).state() for run_dir in failed]
    if "failed" in states:
        return (
            "failed trials keep their log.txt and journal (see `logs TRIAL`); `retry SPEC.yaml` "
            "tries them again"
        )
    if set(states) == {"damaged"}:
        return "`status SPEC.yaml` says again what is damaged"
    return "what has failed could not be written down; the same command resumes from here"
