"""Makes the run directories of a plan, on local and on network file systems, however many and
however many launchers.

What is made is on the disk when `prepare` returns: three syncs a trial, which `map_io` has under
way sixteen at a time, so that a disk joins them (benchmarks.scale prepare).
"""

import json
import os
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from launch.runs import committed, folder, rundir
from launch.runs.resources import keep
from launch.spec.load import Cell, Spec
from launch.spec.resources import ONE, Resources
from launch.spec.trial import Trial
from rm.files import append_line, sync_folder, write_atomically
from rm.registry import plugins


class Use(Protocol):
    """One trial as one spec uses it, and the state it was found in; `launch.plan` makes them."""

    @property
    def spec(self) -> Spec: ...

    @property
    def cell(self) -> Cell: ...

    @property
    def trial(self) -> Trial: ...

    @property
    def state(self) -> str: ...

    @property
    def row(self) -> str: ...

    @property
    def label(self) -> str: ...


def prepare(uses: Sequence[Use], runs: Path, resources: Resources | None = None) -> None:
    """Make the run directories: trial.json, and a line in uses.jsonl for each spec and row that
    the trial appears in.

    Those of committed records are made whole. `resources` stand for those of the specs.
    """
    committed.restore(runs, {use.trial.id for use in uses})
    runs.mkdir(parents=True, exist_ok=True)
    by_trial: dict[str, list[Use]] = {}
    for use in uses:
        by_trial.setdefault(use.trial.id, []).append(use)
    there = folder.names(runs)
    folder.map_io(
        lambda found: _prepare(f"{runs}/{found[0].trial.id}", found, there, resources),
        list(by_trial.values()),
    )
    if not by_trial.keys() <= there:
        sync_folder(runs)


def _prepare(
    run_dir: str, uses: Sequence[Use], there: Collection[str], resources: Resources | None
) -> None:
    """Where nothing is new, as in a finished run directory that was launched before, one file is
    read and nothing else.
    """
    trial, is_new = uses[0].trial, uses[0].trial.id not in there
    if is_new:
        with suppress(FileExistsError):  # another launcher's
            os.mkdir(run_dir)  # noqa: PTH102  a Path costs as much as the disk, ten thousand times
    lines = dict.fromkeys(map(_line, uses))
    known = [] if is_new else _read(f"{run_dir}/{rundir.USES}").split("\n")
    if new := [line for line in lines if line not in known]:
        append_line(Path(run_dir, rundir.USES), "\n".join(new))
    if uses[0].state == "finished":
        return
    for name, content in plugins.copies(trial.values).items():
        folder_of_plugins = Path(run_dir, plugins.FOLDER)
        if not (folder_of_plugins / name).exists():
            folder_of_plugins.mkdir(exist_ok=True)
            write_atomically(folder_of_plugins / name, content)
    text = trial.to_json()
    if is_new or _read(f"{run_dir}/{rundir.TRIAL}") != text:
        # Two launchers may both write it; either's is the same. It comes last, as writing it puts
        # the folder's other names on the disk as well.
        write_atomically(Path(run_dir, rundir.TRIAL), text)
    asked = resources or uses[-1].cell.resources
    if not is_new or asked != ONE:
        keep(Path(run_dir), asked)


def _line(use: Use) -> str:
    """What uses.jsonl holds of one use."""
    spec = {"spec": use.spec.name, "profile": use.spec.variant}
    return json.dumps({**spec, "row": use.row, "label": use.label, **use.cell.sample})


def _read(path: str) -> str:
    """A small file; empty where there is none. By os alone: pathlib would take as long again."""
    try:
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return ""
    try:
        parts = []
        while part := os.read(file, 1 << 16):
            parts.append(part)
    finally:
        os.close(file)
    return b"".join(parts).decode(errors="replace")
