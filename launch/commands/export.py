"""`export`: run directories that are ready to run on another machine, with all that they need."""

import argparse
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launch.commands import add_filters, load_specs, positive
from launch.console import say
from launch.paths import ROOT, runs_dir
from launch.plan import Planned, make_plan
from launch.runs import rundir
from launch.runs.create import prepare
from launch.runs.rundir import RunDir
from launch.runs.transfer import read_manifest, source_digest
from launch.spec.needs import reads_data
from rm import registry
from rm.files import write_atomically

HELP = "write unfinished trials into a folder or archive, to be trained on another machine"
_NOT_TO_TRAVEL = (*rundir.NOT_COPIED, rundir.CANCEL, rundir.JOBS)
_ARCHIVES = {".tar": "w", ".tgz": "w:gz", ".gz": "w:gz"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("specs", nargs="+", metavar="SPEC.yaml")
    add_filters(parser)
    parser.add_argument(
        "--to",
        type=Path,
        required=True,
        metavar="FOLDER|FILE.tar.gz",
        help="the folder to write, or to add to; or an archive of such a folder",
    )
    parser.add_argument("--most", type=positive, metavar="N", help="only the first N trials")


def run(args: argparse.Namespace) -> int:
    plan = make_plan(load_specs(args, samples=False), runs_dir(), args.where, data=False)
    left = [use for use in plan.to_run() if not _keeps_pictures(use)]
    if kept := len(plan.to_run()) - len(left):
        say(f"left out, to be measured here: {kept}, as what keeps pictures does not travel back")
    if not left:
        say("nothing to export: no trial is left that can be trained or measured elsewhere")
        return 0
    chosen = _in_order(left, args.to / "runs")[: args.most]
    uses = [use for use in plan.uses if use.trial.id in {each.trial.id for each in chosen}]
    mode = _ARCHIVES.get(args.to.suffix)
    if mode is None:
        size = _write_folder(args.to, chosen, uses)
        where = f"cd {args.to}"
    else:
        with tempfile.TemporaryDirectory(prefix="rm-export-") as aside:
            folder = Path(aside) / args.to.name.partition(".")[0]
            size = _write_folder(folder, chosen, uses)
            args.to.parent.mkdir(parents=True, exist_ok=True)
            with tarfile.open(args.to, mode) as archive:  # type: ignore[call-overload]
                archive.add(folder, folder.name)
            where = f"tar xf {args.to.name} && cd {folder.name}"
    say(f"{len(chosen)} of {len(left)} unfinished trials in {args.to} ({size / 2**20:.1f} MiB)")
    for use in chosen:
        say(f"  {use.trial.id}  {use.label}")
    for refusal in plan.refusals():
        say(refusal)
    say(f"$RM_DATA_DIR there must have: {', '.join(_needed(chosen)) or 'nothing'}")
    say(f"there: {where} && python -m launch.backends.local . --deadline MINUTES")
    return 0


def _keeps_pictures(use: Planned) -> bool:
    probe = use.trial.values.get("probe")
    return probe is not None and registry.entry("probe", probe["name"]).keeps_pictures


def _in_order(uses: Sequence[Planned], there: Path) -> list[Planned]:
    """What is in progress first, here or there; then, of each spec, one seed of all rows before
    the next one; parents before what starts from them.
    """
    seeds = list(dict.fromkeys(use.trial.seed for use in uses))
    specs = list(dict.fromkeys(use.spec.path for use in uses))

    def key(use: Planned) -> tuple[bool, int, int]:
        begun = "interrupted" in (use.state, RunDir(there / use.trial.id).state())
        return not begun, specs.index(use.spec.path), seeds.index(use.trial.seed)

    ordered, placed = [], set()
    by_id = {use.trial.id: use for use in uses}

    def place(use: Planned) -> None:
        for parent in use.trial.parents:
            if parent in by_id and parent not in placed:
                place(by_id[parent])
        if use.trial.id not in placed:
            placed.add(use.trial.id)
            ordered.append(use)

    for use in sorted(uses, key=key):
        place(use)
    return ordered


def _needed(uses: Sequence[Planned]) -> list[str]:
    """The data sets, and the files of weights, that do not travel with the run directories."""
    values = [use.trial.values for use in uses]
    sets = {
        str(each["dataset"]["name"]) for each in values if "dataset" in each and reads_data(each)
    }
    files = {
        f"weights/{each['init']['file']}" for each in values if "file" in each.get("init", {})
    }
    return sorted(sets) + sorted(files)


def _write_folder(folder: Path, chosen: Sequence[Planned], uses: Sequence[Planned]) -> int:
    """Returns its size in bytes."""
    runs = folder / "runs"
    for use in chosen:
        here = runs_dir() / use.trial.id
        if RunDir(here).state() == "interrupted" and not (runs / use.trial.id).exists():
            _copy(here, runs / use.trial.id)
        for parent in use.trial.parents:
            if RunDir(runs_dir() / parent).state() == "finished":
                _copy(runs_dir() / parent, runs / parent)
    prepare(uses, runs)
    _copy_code(folder)
    write_atomically(folder / "manifest.json", _manifest(folder, chosen))
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _copy(source: Path, target: Path) -> None:
    """A run directory with its checkpoint or weights."""
    shutil.copytree(
        source, target, ignore=shutil.ignore_patterns(*_NOT_TO_TRAVEL), dirs_exist_ok=True
    )


def _copy_code(folder: Path) -> None:
    """What a bare machine needs: `launch` and `rm`, as they are in this tree."""
    for package in ("launch", "rm"):
        shutil.copytree(
            ROOT / package,
            folder / package,
            ignore=shutil.ignore_patterns("__pycache__"),
            dirs_exist_ok=True,
        )


def _manifest(folder: Path, chosen: Sequence[Planned]) -> str:
    """With what was exported there earlier at its end: that may still have to be packed."""
    trials = [{"id": use.trial.id, "label": use.label} for use in chosen]
    earlier = read_manifest(folder).get("trials", [])
    trials += [trial for trial in earlier if trial["id"] not in {each["id"] for each in trials}]
    manifest: dict[str, Any] = {
        "git_commit": _commit(),
        "source": source_digest(),
        "trials": trials,
    }
    return json.dumps(manifest, indent=1, ensure_ascii=False)


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
