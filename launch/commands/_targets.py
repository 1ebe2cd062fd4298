"""What commands about single trials are given: a spec, or how a trial's id begins."""

import os
from pathlib import Path

from launch.errors import UsageError
from launch.paths import runs_dir

MOST_NAMED = 5


def is_spec(target: str) -> bool:
    """Whether it names a file rather than a trial."""
    return target.endswith((".yaml", ".yml")) or Path(target).is_file()


def find_run(beginning: str) -> Path:
    """The run directory of the one trial whose id begins so; UsageError where there is none, or
    more than one.
    """
    try:
        with os.scandir(runs_dir()) as entries:
            found = sorted(
                entry.name
                for entry in entries
                if entry.name.startswith(beginning) and entry.is_dir()
            )
    except FileNotFoundError:
        found = []
    if beginning in found:
        return runs_dir() / beginning
    if not found or not beginning:
        raise UsageError(
            f"no trial in {runs_dir()} begins with '{beginning}'; `status SPEC.yaml` names them"
        )
    if len(found) > 1:
        more = f" and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
        raise UsageError(
            f"'{beginning}' is how several trials begin: {', '.join(found[:MOST_NAMED])}{more}"
        )
    return runs_dir() / found[0]
