"""`import`: check runs that were trained elsewhere, commit the finished ones to
results/reproduced, put the others where `run` resumes them, mirror all.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from launch.commands import mirror_quietly
from launch.console import say
from launch.errors import UsageError
from launch.paths import results_dir, runs_dir
from launch.runs import archive, rundir
from launch.runs.archive import Record, RecordError, committed, make_record, read, read_run
from launch.runs.rundir import RunDir
from launch.runs.transfer import WEIGHTS, ArchiveError, Files, read_archive
from launch.spec.spec import file_stem
from rm.files import write_atomically

HELP = "check what was trained elsewhere, commit and mirror it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "sources",
        nargs="*",
        type=Path,
        metavar="ARCHIVE|RUNS",
        help="what `python -m launch.backends.local` packed, or a folder of run directories; "
        "none: restore what is committed",
    )
    parser.add_argument(
        "--name", help="the file in results/reproduced (default: the first spec that uses a trial)"
    )
    parser.add_argument(
        "--replace",
        action="store_true",
        help="let another run of a committed trial take its place",
    )


def run(args: argparse.Namespace) -> int:
    """Exit status 2 where a run was refused, 1 where the tracking store cannot be written."""
    try:
        found = [run for source in args.sources for run in _runs_in(source)]
    except ArchiveError as error:
        raise UsageError(str(error)) from None
    folder = results_dir() / "reproduced"
    sets: dict[str, list[Record]] = {}
    heavy: list[tuple[str, Files]] = []
    refused = 0
    for where, files in found:
        if rundir.RESULT not in files:
            say(f"unfinished, not recorded: {where}{_put_in_progress(files)}")
            continue
        try:
            record = make_record(files, where)
            sets.setdefault(_set_of(record, folder, args), []).append(record)
            heavy.append((record["id"], files))
        except RecordError as error:
            refused += 1
            say(f"refused: {error}")
    for name, records in sorted(sets.items()):
        changed = archive.add(folder / f"{name}.jsonl", records)
        say(f"{folder / name}.jsonl: {len(records)} runs, {changed} of them new or changed")
    status = _restore(folder)
    for identity, files in heavy:
        _keep_weights(identity, files)
    return 2 if refused else status


def _runs_in(source: Path) -> list[tuple[str, Files]]:
    """(where, files) of the runs of an archive, or the finished ones of a folder."""
    if not source.is_dir():
        return read_archive(source)
    runs = source / "runs" if (source / "runs").is_dir() else source
    found = [(str(path.parent), read_run(path.parent)) for path in runs.glob(f"*/{rundir.RESULT}")]
    there = sum(1 for path in runs.iterdir() if path.is_dir())
    say(f"{runs}: {len(found)} of {there} run directories are finished")
    return sorted(found)


def _restore(folder: Path) -> int:
    """Run directories and MLflow records of what is committed."""
    made = archive.restore(folder, runs_dir())
    there = committed(folder)
    mirrored = mirror_quietly([runs_dir() / identity for identity in there])
    say(
        f"{len(there)} committed runs; {len(made)} run directories restored, {mirrored or 0} runs "
        "mirrored into MLflow"
    )
    return 0 if mirrored is not None else 1


def _set_of(record: Record, folder: Path, args: argparse.Namespace) -> str:
    """The file that a record belongs to: where it is already, else --name, else the first spec
    that uses it.

    RecordError where another run of the same trial is committed, unless --replace.
    """
    there = committed(folder).get(record["id"])
    if there is None:
        use: dict[str, Any] = (record["uses"] or [{"spec": "other", "profile": None}])[0]
        return str(args.name or file_stem(use["spec"], use["profile"]))
    former = next(other for other in read(there) if other["id"] == record["id"])
    if former["events"][0] != record["events"][0] and not args.replace:
        raise RecordError(
            f"trial {record['id']}: {there} has another run of it; --replace puts this one in its "
            "place"
        )
    return there.stem


def _put_in_progress(files: Files) -> str:
    """An unfinished run that brought its checkpoint becomes a run directory here, where there is
    none that is further.
    """
    run_dir = runs_dir() / json.loads(files[rundir.TRIAL])["id"]
    if rundir.CHECKPOINT not in files or RunDir(run_dir).state() not in ("waiting", "failed"):
        return ""
    run_dir.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        write_atomically(run_dir / name, data)
    return "; its checkpoint is here, so that `run` resumes it"


def _keep_weights(identity: str, files: Files) -> None:
    """What starts from a trial needs its weights, which no record holds."""
    run_dir = runs_dir() / identity
    for name in WEIGHTS:
        if name in files and not (run_dir / name).exists():
            run_dir.mkdir(parents=True, exist_ok=True)
            write_atomically(run_dir / name, files[name])
