"""From specs to the list of trials to run: what is finished is reused, what coincides is planned
once.
"""

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from launch.errors import FilterError
from launch.paths import data_dir
from launch.runs import archive, journal, parallel, rundir
from launch.spec.load import Cell, Spec
from launch.spec.trial import Trial
from rm import registry

State = journal.State | Literal["refused", "stopped"]
"""refused: not finished, and a file that its method needs is not on this machine. stopped: by its
search, for good.
"""


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
    committed: frozenset[str] = frozenset()
    """The trials of which a record is committed, by id."""

    @property
    def unique(self) -> dict[str, Planned]:
        """The first use of each trial, by id."""
        found: dict[str, Planned] = {}
        for use in self.uses:
            found.setdefault(use.trial.id, use)
        return found

    def to_run(self) -> list[Planned]:
        """What is not finished yet and can start, each trial once."""
        return [
            use
            for use in self.unique.values()
            if use.state not in ("finished", "refused", "stopped")
        ]

    def origin(self) -> str:
        """For the sum: how many of the finished ones came with the repository; empty where none
        did.
        """
        return (
            f" ({len(self.committed)} of them committed in results/reproduced)"
            if self.committed
            else ""
        )

    def refusals(self) -> list[str]:
        """Why trials are refused, each reason once."""
        return sorted({use.refusal for use in self.unique.values() if use.refusal})

    def to_json(self) -> str:
        """An object with the list `trials`, one a line."""
        write = json.JSONEncoder(ensure_ascii=False).encode
        rows = [
            write(
                {
                    "id": u.trial.id,
                    "spec": u.spec.name,
                    "row": u.row,
                    "seed": u.trial.seed,
                    "state": u.state,
                }
            )
            for u in self.uses
        ]
        return '{"trials": [\n' + ",\n".join(rows) + "\n]}"


def make_plan(
    specs: Iterable[Spec],
    runs: Path,
    where: Sequence[str] = (),
    look: Callable[[Path], journal.State] = rundir.state_of,
) -> Plan:
    """Look up the state of every trial of the specs, of those alone that match every `key=value`
    of `where`.

    `look` tells the state of a run directory that is not finished; one that remembers what it saw
    saves a second look. A trial whose record is committed in `reproduced` beside `runs` is
    finished, on a fresh clone too.
    """
    conditions = [_condition(text) for text in where]
    chosen = [
        (spec, cell)
        for spec in specs
        for cell in spec.cells
        if all(_matches(spec, cell, key, value) for key, value in conditions)
    ]
    if where and not chosen:
        raise FilterError(f"nothing matches --where {' '.join(where)}; {_valid_keys(specs)}")
    committed = archive.committed(runs.parent / "reproduced")
    found = _states(
        runs,
        committed,
        dict.fromkeys(trial.id for _, cell in chosen for trial in cell.trials),
        look,
    )
    states: dict[str, State] = {}
    uses = []
    for spec, cell in chosen:
        refusal = registry.missing_files(cell.trials[0].values["method"], data_dir())
        for trial in cell.trials:
            if trial.id not in states:
                now = found[trial.id]
                states[trial.id] = "refused" if refusal and now != "finished" else now
                if cell.stopped and now == "interrupted":
                    states[trial.id] = "stopped"
            state = states[trial.id]
            uses.append(Planned(spec, cell, trial, state, refusal if state == "refused" else None))
    return Plan(tuple(uses), frozenset(committed.keys() & states.keys()))


def _states(
    runs: Path,
    committed: Collection[str],
    wanted: Iterable[str],
    look: Callable[[Path], journal.State],
) -> Mapping[str, journal.State]:
    """The state of each trial: committed records and finished ones by one question each, the
    others by a look.
    """
    states: dict[str, journal.State] = dict.fromkeys(wanted, "waiting")
    states |= dict.fromkeys((identity for identity in committed if identity in states), "finished")
    there = rundir.names(runs)
    made = [
        identity for identity, state in states.items() if state == "waiting" and identity in there
    ]
    finished = rundir.finished(runs, made)
    states |= dict.fromkeys(finished, "finished")
    others = [identity for identity in made if identity not in finished]
    states |= zip(
        others, parallel.map_io(lambda identity: look(runs / identity), others), strict=True
    )
    return states


def _condition(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise FilterError(
            "--where takes key=value, such as backbone=resnet18 or method.alpha=0.5; found "
            f"'{text}'"
        )
    return key.strip(), value.strip()


def _matches(spec: Spec, cell: Cell, key: str, value: str) -> bool:
    """A key is an axis (its label is compared), a section (its name), or a dotted key of the
    resolved values.
    """
    if key in spec.axes and cell.labels[spec.axes.index(key)] == value:
        return True
    values = cell.trials[0].flat()
    for candidate in (key, f"{key}.name"):
        if candidate in values:
            found = values[candidate]
            return value == str(found) or value == json.dumps(found)
    return False


def _valid_keys(specs: Iterable[Spec]) -> str:
    keys = {
        key
        for spec in specs
        for key in (*spec.axes, *spec.cells[0].trials[0].values)
        if key != "seed"
    }
    return f"keys: {', '.join(sorted(keys))}, or a dotted one such as method.alpha"
