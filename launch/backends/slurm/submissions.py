"""What was submitted: a folder of `results/slurm/` for each array, written before sbatch is
called.

    results/slurm/<job name>/
      tasks.jsonl       a line for each array index: the run directories of that task
      submitted.json    {"id", "time"} once SLURM has it; id null where it never got it
      *.sh, *_log.out   the script, and what its tasks print

A folder without submitted.json is an intent: whether sbatch went through is not known, and is
looked up by the job's name.
"""

import fcntl
import json
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from launch.backends.slurm import cli
from launch.paths import results_dir
from launch.runs import rundir
from launch.runs.rundir import RunDir
from rm.files import append_line, write_atomically


class Entry(NamedTuple):
    """A run directory in a task, and how long its journal was at submission: what failed before
    that is to run again.
    """

    run_dir: Path
    journal: int


@contextmanager
def lock() -> Iterator[None]:
    """One launcher at a time looks up what has a job and submits what has none."""
    root = results_dir() / "slurm"
    root.mkdir(parents=True, exist_ok=True)
    with (root / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def record_intent(tasks: Sequence[Sequence[Path]]) -> Path:
    """Write down an array before it is submitted; returns its folder, whose name is the job's."""
    folder = results_dir() / "slurm" / f"rm-{uuid.uuid4().hex[:10]}"
    folder.mkdir(parents=True)
    lines = [
        json.dumps(
            [{"run_dir": str(run_dir), "journal": journal_size(run_dir)} for run_dir in task]
        )
        for task in tasks
    ]
    write_atomically(folder / "tasks.jsonl", "\n".join(lines) + "\n")
    return folder


def journal_size(run_dir: Path) -> int:
    """How long a run directory's journal is, in bytes."""
    try:
        return (run_dir / rundir.JOURNAL).stat().st_size
    except FileNotFoundError:
        return 0


def tasks(folder: Path) -> list[list[Entry]]:
    """The run directories of each array index."""
    lines = (folder / "tasks.jsonl").read_text(encoding="utf-8").splitlines()
    return [
        [Entry(Path(each["run_dir"]), each["journal"]) for each in json.loads(line)]
        for line in lines
    ]


def submitted(folder: Path, array: str | None) -> None:
    """SLURM has this array under an id (None: it has not and will not); each run directory gets
    its line.
    """
    for index, task in enumerate(tasks(folder) if array else []):
        for entry in task:
            note(entry.run_dir, f"{array}_{index}", folder.name, {})
    about = json.dumps({"id": array, "time": round(time.time(), 3)})
    write_atomically(folder / "submitted.json", about)


def identity(folder: Path) -> str | None:
    """The array's id, or None where it is not submitted."""
    try:
        found: str | None = json.loads((folder / "submitted.json").read_text(encoding="utf-8"))[
            "id"
        ]
    except FileNotFoundError:
        return None
    return found


def note(run_dir: Path, identity: str, name: str, more: Mapping[str, Any]) -> None:
    """Append a line to the run directory's jobs.jsonl."""
    line = {
        "backend": "slurm",
        "id": identity,
        "time": round(time.time(), 3),
        "name": name,
        **more,
    }
    # tasks.jsonl and submitted.json say the same, durably; a sync for each of ten thousand trials
    # would take longer than sbatch.
    append_line(run_dir / rundir.JOBS, json.dumps(line), durable=False)


def job_lines(run_dir: Path) -> list[dict[str, Any]]:
    """SLURM's lines of a run directory's jobs.jsonl."""
    return [line for line in RunDir(run_dir).jobs if line.get("backend") == "slurm"]


def recover_submissions() -> int:
    """Reconcile every intent that a launcher left which died or was not answered; returns how many
    SLURM had taken.

    Raises SlurmError where SLURM cannot be asked. Call it under `lock`.
    """
    adopted = 0
    for file in sorted((results_dir() / "slurm").glob("*/tasks.jsonl")):
        if not (file.parent / "submitted.json").exists():
            adopted += reconcile(file.parent) is not None
    return adopted


def reconcile(folder: Path) -> str | None:
    """Look an intent up by its name: the id under which SLURM has it, or None. Later doubles of it
    are withdrawn.
    """
    ids = cli.by_name(folder.name)
    if len(ids) > 1:
        cli.cancel(ids[1:])
    submitted(folder, ids[0] if ids else None)
    return ids[0] if ids else None
