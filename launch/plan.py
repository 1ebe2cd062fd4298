"""From specs to the list of trials to run: what is finished is reused, what coincides is planned once."""

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from launch import catalog, reproduced, rundir
from launch.resources import Resources, keep
from launch.spec import Cell, Spec
from launch.trial import Trial

State = rundir.State | Literal["refused", "stopped"]
"""refused: not finished, and a file that its method needs is not on this machine. stopped: by its search, for good."""


class FilterError(ValueError):
    """A --where that cannot match anything; the message says what would."""


@dataclass(frozen=True, slots=True)
class Planned:
    """One trial as one spec uses it, and the state it was found in."""

    spec: Spec
    cell: Cell
    trial: Trial
    state: State
    refusal: str | None = None

    @property
    def row(self) -> str:
        return " · ".join(self.cell.labels)

    @property
    def label(self) -> str:
        """A name for people: `table3 · ResNet-18 · + RM (ours) · seed 0`."""
        profile = f" ({self.spec.profile})" if self.spec.profile else ""
        return f"{self.spec.name}{profile} · {self.row} · seed {self.trial.seed}"


@dataclass(frozen=True)
class Plan:
    """All uses of all trials, in the order of the specs."""

    uses: tuple[Planned, ...]

    @property
    def unique(self) -> dict[str, Planned]:
        """The first use of each trial, by id."""
        found: dict[str, Planned] = {}
        for use in self.uses:
            found.setdefault(use.trial.id, use)
        return found

    def to_run(self) -> list[Planned]:
        """What is not finished yet and can start, each trial once."""
        return [use for use in self.unique.values() if use.state not in ("finished", "refused", "stopped")]

    def refusals(self) -> list[str]:
        """Why trials are refused, each reason once."""
        return sorted({use.refusal for use in self.unique.values() if use.refusal})

    def to_json(self) -> str:
        """An object with the list `trials`, one a line."""
        write = json.JSONEncoder(ensure_ascii=False).encode
        rows = [
            write({"id": u.trial.id, "spec": u.spec.name, "row": u.row, "seed": u.trial.seed, "state": u.state})
            for u in self.uses
        ]
        return '{"trials": [\n' + ",\n".join(rows) + "\n]}"


def make_plan(
    specs: Iterable[Spec],
    runs: Path,
    where: Sequence[str] = (),
    look: Callable[[Path], rundir.State] = rundir.state,
) -> Plan:
    """Look up the state of every trial of the specs, of those alone that match every `key=value` of `where`.

    `look` tells the state of a run directory; one that remembers what it saw saves a second look.
    A trial whose record is committed in `reproduced` beside `runs` is finished, on a fresh clone too.
    """
    conditions = [_condition(text) for text in where]
    there = _names(runs)
    states: dict[str, State] = {}
    committed = reproduced.committed(runs.parent / "reproduced")
    uses = []
    for spec in specs:
        for cell in spec.cells:
            if not all(_matches(spec, cell, key, value) for key, value in conditions):
                continue
            refusal = catalog.missing_files(cell.trials[0].values["method"])
            for trial in cell.trials:
                if trial.id not in states:
                    found: rundir.State = "waiting"
                    if trial.id in committed:
                        found = "finished"
                    elif trial.id in there:
                        found = look(runs / trial.id)
                    states[trial.id] = "refused" if refusal and found != "finished" else found
                    if cell.stopped and found == "interrupted":
                        states[trial.id] = "stopped"
                state = states[trial.id]
                uses.append(Planned(spec, cell, trial, state, refusal if state == "refused" else None))
    if where and not uses:
        raise FilterError(f"nothing matches --where {' '.join(where)}; {_valid_keys(specs)}")
    return Plan(tuple(uses))


def _names(folder: Path) -> set[str]:
    """What is in the folder of all runs, by one listing: what is not there need not be asked for."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries}
    except FileNotFoundError:
        return set()


def _condition(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise FilterError(f"--where takes key=value, such as backbone=resnet18 or method.alpha=0.5; found '{text}'")
    return key.strip(), value.strip()


def _matches(spec: Spec, cell: Cell, key: str, value: str) -> bool:
    """A key is an axis (its label is compared), a section (its name), or a dotted key of the resolved values."""
    if key in spec.axes and cell.labels[spec.axes.index(key)] == value:
        return True
    values = cell.trials[0].flat()
    for candidate in (key, f"{key}.name"):
        if candidate in values:
            found = values[candidate]
            return value == str(found) or value == json.dumps(found)
    return False


def _valid_keys(specs: Iterable[Spec]) -> str:
    keys = {key for spec in specs for key in (*spec.axes, *spec.cells[0].trials[0].values) if key != "seed"}
    return f"keys: {', '.join(sorted(keys))}, or a dotted one such as method.alpha"


def prepare(uses: Sequence[Planned], runs: Path, resources: Resources | None = None) -> None:
    """Make the run directories: trial.json, and a line in uses.jsonl for each spec and row that the trial appears in.

    Those of committed records are made whole. `resources` stand for those of the specs.
    """
    reproduced.restore(runs.parent / "reproduced", runs, {use.trial.id for use in uses})
    for use in uses:
        run_dir = runs / use.trial.id
        run_dir.mkdir(parents=True, exist_ok=True)
        trial_file = run_dir / "trial.json"
        if not trial_file.exists():
            aside = run_dir / f"trial.json.{os.getpid()}.tmp"  # two launchers may both write it; either's is the same
            aside.write_text(use.trial.to_json(), encoding="utf-8")
            aside.replace(trial_file)
        line = json.dumps({"spec": use.spec.name, "profile": use.spec.profile, "row": use.row, "label": use.label})
        keep(run_dir, resources or use.cell.resources)
        uses_file = run_dir / "uses.jsonl"
        known = uses_file.read_text(encoding="utf-8").splitlines() if uses_file.exists() else []
        if line not in known:
            with uses_file.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
