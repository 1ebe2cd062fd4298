"""What was submitted: a folder of `results/slurm/` for each array, written before sbatch is
called.

    results/slurm/<job name>/
      tasks.jsonl       a line for each array index: the run directories of that task
      submitted.json    {"id", "time", "cluster"} once SLURM has it; id null where it never got it
      *.sh, *_log.out   the script, and what its tasks print

sbatch's word is not enough: after any failure, and after any answer that is more than an id, the
job is looked up by its name, which nothing else has.

A folder without submitted.json is an intent: whether sbatch went through is not known, and is
looked up by the job's name.
"""

import fcntl
import json
import os
import platform
import re
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from launch.backends.slurm import cli, jobs
from launch.backends.slurm.cli import SlurmError
from launch.backends.slurm.jobs import JobRef
from launch.console import say
from launch.paths import results_dir
from launch.runs import rundir
from launch.runs.contents import Damaged
from launch.runs.rundir import RunDir
from rm.files import append_line, sync_filesystem, sync_folder, write_atomically

SUBMIT_SECONDS = 120.0
ATTEMPTS = 3

_MAY_COME_LATE = re.compile(
    r"time[d -]*out|did not answer|unable to contact|socket|connect|temporarily|exit status",
    re.IGNORECASE,
)
"""Errors (a death of sbatch without a word among them) after which SLURM may have the job soon;
any other is a refusal, unless SLURM has it all the same.
"""

SILENT_SECONDS = 2.0
"""How long it waits for another launcher without a word."""
LATE_SECONDS = 10.0
"""How long SLURM may take to show a job whose sbatch was killed."""


class Entry(NamedTuple):
    """A run directory in a task, and how long its journal was at submission: what failed before
    that is to run again.
    """

    run_dir: Path
    journal: int


@contextmanager
def lock() -> Iterator[None]:
    """One launcher at a time looks up what has a job and submits what has none; says for whom it
    waits. An sbatch that outlives its launcher still holds it.
    """
    root = results_dir() / "slurm"
    root.mkdir(parents=True, exist_ok=True)
    with (root / ".lock").open("a+") as file:
        _wait_for(file)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}")
        file.flush()
        _held.append(file.fileno())
        try:
            yield
        finally:
            _held.clear()


_held: list[int] = []
"""The lock's open file, while this process has it."""


def _wait_for(file: TextIO) -> None:
    began, told = time.monotonic(), False
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not told and time.monotonic() - began > SILENT_SECONDS:
                told = True
                file.seek(0)
                whom = file.read() or "another launcher"
                say(f"waiting for {whom}, which submits to SLURM, or its sbatch, which still runs")
            time.sleep(0.1)
        else:
            return


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
    sync_folder(folder.parent)
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


def tasks_of(job: JobRef) -> list[list[Entry]]:
    """Of the array that a job is of; nothing where its folder was removed or is not readable."""
    try:
        return tasks(results_dir() / "slurm" / job.name)
    except (OSError, ValueError, KeyError, TypeError):
        return []


def submit(script: Path, folder: Path) -> str:
    """Submit an intent; returns the array's id. Raises SlurmError where SLURM does not have it."""
    try:
        array = sbatch(script, folder.name, tuple(_held))
    except Refused:
        submitted(folder, None)
        raise
    submitted(folder, array)
    return array


def submitted(folder: Path, array: str | None) -> None:
    """SLURM has this array under an id (None: it has not and will not); each run directory gets
    its line, unless it has one.
    """
    cluster = cli.cluster_name() if array else None
    for index, task in enumerate(tasks(folder) if array else []):
        for entry in task:
            if all(line.get("name") != folder.name for line in job_lines(entry.run_dir)):
                note(entry.run_dir, JobRef(f"{array}_{index}", folder.name, cluster), {})
    # The lines are on the disk before it says so: an intent without this file is looked up again.
    # One sync for all; one each of ten thousand would take longer than sbatch.
    if array:
        sync_filesystem(folder)
    about = json.dumps({"id": array, "time": round(time.time(), 3), "cluster": cluster})
    write_atomically(folder / "submitted.json", about)


def note(run_dir: Path, job: JobRef, more: Mapping[str, Any]) -> None:
    """Append a line to the run directory's jobs.jsonl."""
    about = {"backend": "slurm", "id": job.id, "time": round(time.time(), 3), "name": job.name}
    cluster = {"cluster": job.cluster} if job.cluster else {}
    line = json.dumps({**about, **cluster, **more})
    append_line(run_dir / rundir.JOBS, line, durable=False)


def job_lines(run_dir: Path) -> list[dict[str, Any]]:
    """SLURM's lines of a run directory's jobs.jsonl. A damaged one is written again: the
    submissions' folders say the same.
    """
    try:
        lines = RunDir(run_dir).jobs
    except Damaged as error:
        lines = _derived(run_dir)
        text = "".join(json.dumps(line) + "\n" for line in lines)
        write_atomically(run_dir / rundir.JOBS, text)
        say(f"{error}; written again from {results_dir() / 'slurm'}")
    return [line for line in lines if line.get("backend") == "slurm"]


def _derived(run_dir: Path) -> list[dict[str, Any]]:
    """Its submissions as their folders have them, oldest first; when it started, they do not."""
    found = []
    for file in (results_dir() / "slurm").glob("*/submitted.json"):
        try:
            about = json.loads(file.read_bytes())
            inside = [run_dir in [e.run_dir for e in task] for task in tasks(file.parent)]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if about.get("id") and True in inside:
            job = {"id": f"{about['id']}_{inside.index(True)}", "name": file.parent.name}
            found.append({"backend": "slurm", **job, "time": about["time"]})
            found[-1] |= {"cluster": about["cluster"]} if about.get("cluster") else {}
    return sorted(found, key=lambda line: float(line["time"]))


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
    """Look an intent up by its name: the id under which SLURM has it, or None. One of a moment ago
    may still be on its way.
    """
    written = (folder / "tasks.jsonl").stat().st_mtime
    while (found := find(folder.name)) is None and 0 <= time.time() - written < LATE_SECONDS:
        time.sleep(0.5)
    submitted(folder, found)
    return found


class Refused(SlurmError):
    """SLURM does not have the job, and will not."""


def sbatch(script: Path, name: str, inherit: Sequence[int] = ()) -> str:
    """Submit once, whatever sbatch says; returns the id under which SLURM has the job.

    Raises Refused, or another SlurmError where it is not known whether SLURM took it.

    inherit   open files that sbatch keeps open, should it outlive this process
    """
    failure = SlurmError("sbatch was not tried")
    for attempt in range(ATTEMPTS):
        words = ("sbatch", "--parsable", str(script))
        try:
            answer = cli.ask(*words, seconds=SUBMIT_SECONDS, inherit=inherit)
        except SlurmError as error:
            late = _MAY_COME_LATE.search(str(error))
            time.sleep(2.0 * (attempt + 1) if late else 0.0)
            if identity := find(name):
                return identity
            if not late:
                raise Refused(str(error)) from error
            failure = error
            continue
        said = _identity(answer)
        # An earlier attempt may have gone through since it was looked up.
        found = find(name) if attempt or said is None else said
        if found or said:
            return found or said or ""
        raise Refused(f"sbatch answered '{answer.strip()}', and no job is called {name}")
    raise failure


def find(name: str) -> str | None:
    """The id of the job of this name, None where there is none; later doubles are withdrawn."""
    ids = jobs.by_name(name)
    for double in ids[1:]:
        jobs.cancel_array(double, name)
    return ids[0] if ids else None


def _identity(answer: str) -> str | None:
    """None where there is anything beside it: sites print notices, which may be numbers."""
    only = re.fullmatch(r"(\d+)(;\S+)?", answer.strip())
    return only[1] if only else None
