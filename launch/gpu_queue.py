"""Full-scale runs on a machine with one GPU that is lent for minutes, and what comes back from it.

    python -m launch.gpu_queue plan --minutes 9 --out QUEUE        here: choose the next unfinished
    trials, write the folder QUEUE
    python -m rm.gpu_queue QUEUE --minutes 9 --side-by-side 2          there: train, with torch,
    torchvision and numpy alone
    python -m launch.gpu_queue collect records.tar.gz              here: check, commit to
    results/reproduced, mirror into MLflow
    python -m launch.gpu_queue collect --runs RUNS --name NAME     the same for the finished runs
    of any results folder
    python -m launch.gpu_queue restore                             committed records become run
    directories and MLflow records again

Without specs, `plan` takes the ResNet-18 rows of Table 3, then of Fig. 4, then of Fig. 5, in each
one seed of everything before the next seed.
"""

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from launch.commands import mirror_quietly, positive
from launch.console import say
from launch.errors import FilterError, UsageError
from launch.paths import EXPERIMENTS, ROOT, results_dir, runs_dir
from launch.plan import Planned, make_plan
from launch.runs import archive
from launch.runs.archive import Record, RecordError, committed, make_record, read, read_run
from launch.runs.import_archive import ArchiveError, Files, read_archive, source_digest
from launch.runs.rundir import RunDir
from launch.spec.load import SpecError, load_spec
from rm import registry

DEFAULT: tuple[tuple[str, list[str]], ...] = (
    ("table3.yaml", ["backbone=resnet18"]),
    ("fig4.yaml", ["backbone=resnet18"]),
    ("fig5.yaml", ["backbone=resnet18"]),
)
"""Spec, --where: what `plan` takes where no spec is given."""


def plan(given: argparse.Namespace) -> int:
    """Write the queue: run directories with trial.json and uses.jsonl, those in progress first,
    and queue.json, their order.
    """
    uses = _chosen(given)
    by_id: dict[str, list[Planned]] = {}
    for use in uses:
        by_id.setdefault(use.trial.id, []).append(use)
    runs: Path = given.out / "runs"
    left = [
        i for i, found in by_id.items() if found[0].state not in ("finished", "refused", "running")
    ]
    waiting = [i for i in left if not (runs / i / "result.json").exists()]
    for path in sorted(
        given.out.glob("back/*")
    ):  # an earlier call's: collected by now, or still to be
        say(
            f"note: {path} is still there; `python -m launch.gpu_queue collect` adds it to the "
            "records"
        )
    begun = [
        i
        for i in waiting
        if (runs / i / "checkpoint.pt").exists() or RunDir(runs_dir() / i).state() == "interrupted"
    ]
    chosen = [*begun, *(i for i in waiting if i not in begun)][: given.most]
    for identity in chosen:
        _write_run(runs / identity, by_id[identity], given.with_checkpoints)
    queue = {
        "minutes": given.minutes,
        "git_commit": _commit(),
        "source": source_digest(),
        "trials": [{"id": i, "label": by_id[i][0].label} for i in chosen],
    }
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "queue.json").write_text(
        json.dumps(queue, indent=1, ensure_ascii=False), encoding="utf-8"
    )
    size = sum(path.stat().st_size for path in given.out.rglob("*") if path.is_file())
    say(
        f"{len(chosen)} of {len(left)} unfinished trials in {given.out} ({size / 2**20:.1f} MiB), "
        "in this order:"
    )
    for identity in chosen:
        say(f"  {identity}  {by_id[identity][0].label}")
    for refusal in sorted({use.refusal for use in uses if use.refusal}):
        say(f"refused: {refusal}")
    say(
        f"on the machine with the GPU: python -m rm.gpu_queue {given.out} --minutes "
        f"{given.minutes:g}"
    )
    return 0


def _chosen(given: argparse.Namespace) -> list[Planned]:
    """Every use of every trial asked for; of each spec, one seed of all rows before the next."""
    asked = [(Path(name), given.where) for name in given.specs] or [
        (EXPERIMENTS / n, where) for n, where in DEFAULT
    ]
    uses = []
    for path, where in asked:
        there = path if path.exists() else ROOT / path
        found = make_plan([load_spec(there, given.profile)], runs_dir(), where).uses
        seeds = list(dict.fromkeys(use.trial.seed for use in found))
        found = tuple(
            use for use in found if "probe" not in use.trial.values
        )  # measured, not trained
        uses += sorted(found, key=lambda use: seeds.index(use.trial.seed))
    return uses


def _write_run(run_dir: Path, uses: Sequence[Planned], with_checkpoints: bool) -> None:
    """What the trial needs to begin, or to go on: a run that was interrupted here takes its
    journal and checkpoint along.
    """
    here = runs_dir() / run_dir.name
    if with_checkpoints and RunDir(here).state() == "interrupted" and not run_dir.exists():
        shutil.copytree(
            here,
            run_dir,
            ignore=shutil.ignore_patterns(
                ".lease.lock", "lease.json", "*.tmp", "checkpoint.prev.pt"
            ),
        )
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "trial.json").write_text(uses[0].trial.to_json(), encoding="utf-8")
    lines = [
        {"spec": use.spec.name, "profile": use.spec.profile, "row": use.row, "label": use.label}
        for use in uses
    ]
    (run_dir / "uses.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8"
    )


def _commit() -> str | None:
    """The commit, where the source of `rm` is that of the commit."""

    def ask(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return ask("rev-parse", "HEAD") if not ask("status", "--porcelain", "--", "rm") else None
    except (OSError, subprocess.CalledProcessError):
        return None


def collect(given: argparse.Namespace) -> int:
    """Check runs, add the finished ones to the committed records, make run directories of them,
    mirror, renew the page.
    """
    if bool(given.archives) == bool(given.runs) or (given.runs and not given.name):
        raise UsageError("collect takes archives, or --runs RUNS --name NAME")
    found = (
        _from_runs(given.runs)
        if given.runs
        else [run for path in given.archives for run in read_archive(path)]
    )
    folder = results_dir() / "reproduced"
    sets: dict[str, list[Record]] = {}
    refused = 0
    for where, files in found:
        if "result.json" not in files:
            say(f"unfinished, not recorded: {where}{_put_in_progress(files)}")
            continue
        try:
            record = make_record(files, where)
            sets.setdefault(_set_of(record, folder, given), []).append(record)
        except RecordError as error:
            refused += 1
            say(f"refused: {error}")
    for name, records in sorted(sets.items()):
        changed = archive.add(folder / f"{name}.jsonl", records)
        say(f"{folder / name}.jsonl: {len(records)} runs, {changed} of them new or changed")
    restore(given)
    return 2 if refused else 0


def restore(given: argparse.Namespace) -> int:
    """Run directories and MLflow records of what is committed, and the page that says what there
    is.
    """
    folder = results_dir() / "reproduced"
    made = archive.restore(folder, runs_dir())
    there = committed(folder)
    mirrored = mirror_quietly([runs_dir() / identity for identity in there])
    say(
        f"{len(there)} committed runs; {len(made)} run directories restored, {mirrored or 0} runs "
        "mirrored into MLflow"
    )
    # A command of its own: this room does not import the one that draws conclusions.
    subprocess.run(
        [sys.executable, "-m", "analysis.reproduced", str(folder)], cwd=ROOT, check=True
    )
    return 0 if mirrored is not None else 1


def _set_of(record: Record, folder: Path, given: argparse.Namespace) -> str:
    """The file that a record belongs to: where it is already, else --name, else the first spec
    that uses it.

    RecordError where another run of the same trial is committed, unless --replace.
    """
    there = committed(folder).get(record["id"])
    if there is None:
        use = record["uses"][0] if record["uses"] else {"spec": "other", "profile": None}
        return str(given.name or "-".join(filter(None, (use["spec"], use["profile"]))))
    former = next(other for other in read(there) if other["id"] == record["id"])
    if former["events"][0] != record["events"][0] and not given.replace:
        raise RecordError(
            f"trial {record['id']}: {there} has another run of it; --replace puts this one in its "
            "place"
        )
    return there.stem


def _from_runs(runs: Path) -> list[tuple[str, Files]]:
    """(where, files) of the finished run directories of a results folder."""
    if not runs.is_dir():
        raise UsageError(f"{runs}: no such folder")
    found = [
        (str(path.parent), read_run(path.parent)) for path in sorted(runs.glob("*/result.json"))
    ]
    say(
        f"{runs}: {len(found)} of {sum(1 for path in runs.iterdir() if path.is_dir())} run "
        "directories are finished"
    )
    return found


def _put_in_progress(files: Files) -> str:
    """An unfinished run that brought its checkpoint becomes a run directory here, where there is
    none that is further.
    """
    identity = json.loads(files["trial.json"])["id"]
    run_dir = runs_dir() / identity
    if "checkpoint.pt" not in files or RunDir(run_dir).state() not in ("waiting", "failed"):
        return ""
    run_dir.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (run_dir / name).write_bytes(data)
    return "; its checkpoint is here, so that the next plan goes on with it"


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0, or 2 for bad input and for runs that were refused."""
    given = _parser().parse_args(arguments)
    try:
        return int(given.function(given))
    except SpecError as error:
        print(error, file=sys.stderr)
    except (UsageError, FilterError, registry.RegistryError, RecordError, ArchiveError) as error:
        print(f"error: {error}", file=sys.stderr)
    return 2


def _minutes(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number above 0, found '{text}'")
    return value


def _parser() -> argparse.ArgumentParser:
    whole = argparse.ArgumentParser(
        prog="python -m launch.gpu_queue",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = whole.add_subparsers(required=True, metavar="{plan,collect,restore}")
    parser = commands.add_parser(
        "plan", help="write the folder that goes to the machine with the GPU"
    )
    parser.set_defaults(function=plan)
    parser.add_argument(
        "specs",
        nargs="*",
        metavar="SPEC.yaml",
        help="default: table3, fig4 and fig5, their ResNet-18 rows",
    )
    parser.add_argument(
        "--minutes", type=_minutes, required=True, help="what the machine is lent for"
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="QUEUE", help="the folder to write, or to renew"
    )
    parser.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="only these rows of the specs",
    )
    parser.add_argument("--profile", help="a smaller copy of the specs, such as smoke")
    parser.add_argument(
        "--most",
        type=positive,
        default=24,
        help="trials in the queue (default: 24); what fits is started",
    )
    parser.add_argument(
        "--with-checkpoints",
        action="store_true",
        help="take runs along that were interrupted here",
    )
    parser = commands.add_parser(
        "collect", help="check finished runs and commit them to results/reproduced"
    )
    parser.set_defaults(function=collect)
    parser.add_argument(
        "archives", nargs="*", type=Path, metavar="ARCHIVE", help="what rm.gpu_queue packed"
    )
    parser.add_argument("--runs", type=Path, help="run directories instead, such as results/runs")
    parser.add_argument(
        "--name", help="the file in results/reproduced (default: the first spec that uses a trial)"
    )
    parser.add_argument(
        "--replace",
        action="store_true",
        help="let another run of a committed trial take its place",
    )
    parser = commands.add_parser(
        "restore", help="make run directories and MLflow records of what is committed"
    )
    parser.set_defaults(function=restore)
    return whole


if __name__ == "__main__":
    sys.exit(main())
