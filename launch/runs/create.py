"""Makes the run directories of a plan, on local and on network file systems, however many and
however many launchers.
"""

import json
import os
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path

from launch.plan import Planned, names
from launch.runs import archive, parallel
from launch.runs.resources import ONE, Resources, keep


def prepare(uses: Sequence[Planned], runs: Path, resources: Resources | None = None) -> None:
    """Make the run directories: trial.json, and a line in uses.jsonl for each spec and row that
    the trial appears in.

    Those of committed records are made whole. `resources` stand for those of the specs.
    """
    archive.restore(runs.parent / "reproduced", runs, {use.trial.id for use in uses})
    runs.mkdir(parents=True, exist_ok=True)
    by_trial: dict[str, list[Planned]] = {}
    for use in uses:
        by_trial.setdefault(use.trial.id, []).append(use)
    there = names(runs)
    parallel.map_io(
        lambda found: _prepare(f"{runs}/{found[0].trial.id}", found, there, resources),
        list(by_trial.values()),
    )


def _prepare(
    run_dir: str, uses: Sequence[Planned], there: Collection[str], resources: Resources | None
) -> None:
    """Where nothing is new, as in a finished run directory that was launched before, one file is
    read and nothing else.
    """
    trial = uses[0].trial
    if trial.id not in there:
        with suppress(FileExistsError):  # another launcher's
            os.mkdir(run_dir)  # noqa: PTH102  tens of thousands of them: Paths would take as long as the disk
    known = _read(f"{run_dir}/uses.jsonl") if trial.id in there else ""
    if uses[0].state != "finished" and not os.path.exists(f"{run_dir}/trial.json"):  # noqa: PTH110
        aside = f"{run_dir}/trial.json.{os.getpid()}.tmp"  # two launchers may both write it; either's is the same
        _write(aside, trial.to_json())
        os.replace(aside, f"{run_dir}/trial.json")  # noqa: PTH105
    asked = resources or uses[-1].cell.resources
    if uses[0].state != "finished" and (trial.id in there or asked != ONE):
        keep(Path(run_dir), asked)
    lines = [
        json.dumps(
            {
                "spec": use.spec.name,
                "profile": use.spec.profile,
                "row": use.row,
                "label": use.label,
                **use.cell.sample,
            }
        )
        + "\n"
        for use in uses
    ]
    known_lines = known.splitlines(keepends=True)
    new = [line for line in dict.fromkeys(lines) if line not in known_lines]
    if new:
        _write(f"{run_dir}/uses.jsonl", "".join(new), os.O_APPEND)


def _read(path: str) -> str:
    """A small file; empty where there is none."""
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
    return b"".join(parts).decode()


def _write(path: str, text: str, how: int = os.O_TRUNC) -> None:
    """In one call, so that what two launchers append does not mingle."""
    file, data = os.open(path, os.O_WRONLY | os.O_CREAT | how, 0o644), text.encode()
    try:
        while data:  # more than once only where the disk is full, and then the second one says so
            data = data[os.write(file, data) :]
    finally:
        os.close(file)
