"""From specs to the list of trials to run: what is finished is reused, what coincides is planned
once, what others start from comes first.
"""

import json
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from launch.garbage import without_gc
from launch.runs import committed as records
from launch.runs import folder, journal, rundir
from launch.runs.rundir import RunDir
from launch.spec.filters import select
from launch.spec.load import Cell, Spec
from launch.spec.needs import Needs
from launch.spec.trial import Trial

State = journal.State | Literal["refused", "stopped", "blocked"]
"""refused: not finished, and a file that it needs is not on this machine. stopped: by its search,
for good. blocked: what it starts from has failed, cannot run, or has left no weights here.
"""

IDLE = ("waiting", "failed")
"""States of trials that have not begun, or begin anew, and so need the weights of their parent: an
interrupted one has them in its checkpoint.
"""


_REMEDY = {"damaged": "; mend it, or move the run's folder away and train it anew"}


class Planned(NamedTuple):
    """One trial as one spec uses it, and the state it was found in.

    reason   why it is refused or blocked, or what it waits for
    can_run  whether it could be run now, its parents first
    """

    spec: Spec
    cell: Cell
    trial: Trial
    state: State
    reason: str | None = None
    can_run: bool = True

    @property
    def row(self) -> str:
        return self.cell.row

    @property
    def label(self) -> str:
        """A name for people: `table3 · ResNet-18 · + RM (ours) · seed 0`."""
        return f"{self.spec.title_name} · {self.row} · seed {self.trial.seed}"


@dataclass(frozen=True)
class Plan:
    """All uses of all trials, in the order of the specs; then those of the trials that they start
    from and that none of the specs shows.

    committed   the trials of which a record is committed, by id
    former      those of which one of former numerics is, which does not count, and these numerics
    """

    uses: tuple[Planned, ...]
    committed: frozenset[str] = frozenset()
    former: Mapping[str, int] = field(default_factory=dict)

    @cached_property
    def unique(self) -> Mapping[str, Planned]:
        """The first use of each trial, by id."""
        found: dict[str, Planned] = {}
        for use in self.uses:
            found.setdefault(use.trial.id, use)
        return found

    def parents(self, trial_id: str) -> list[str]:
        """The ids of the trials that a trial starts from."""
        return list(self.unique[trial_id].trial.parents)

    def to_run(self) -> list[Planned]:
        """What is not finished yet and can start, each trial once, parents first."""
        unique, ordered = self.unique, dict[str, Planned]()

        def add(use: Planned) -> None:
            for parent in use.trial.parents:
                add(unique[parent])
            if use.state != "finished" and use.can_run:
                ordered.setdefault(use.trial.id, use)

        for use in unique.values():
            add(use)
        return list(ordered.values())

    def to_prepare(self) -> list[Planned]:
        """All uses of what has, or is to have, a run directory."""
        return [use for use in self.uses if use.can_run or use.state == "stopped"]

    def origin(self) -> str:
        """For the sum: how many of the finished ones came with the repository; empty where none
        did.
        """
        return (
            f" ({len(self.committed)} of them committed in results/reproduced)"
            if self.committed
            else ""
        )

    def outdated(self) -> str:
        """For the sum: of how many trials a record of former numerics is committed."""
        if not self.former:
            return ""
        numbers = " and ".join(map(str, sorted(set(self.former.values()))))
        return f"; records of numerics {numbers} are committed of {len(self.former)}"

    def refusals(self) -> list[str]:
        """`refused: why` and `blocked: why` of what cannot run, each sentence once."""
        unable = (use for use in self.unique.values() if use.reason and not use.can_run)
        return sorted({f"{use.state}: {use.reason}{_REMEDY.get(use.state, '')}" for use in unable})

    def has_damage(self) -> bool:
        """Whether the run directory of one cannot be read."""
        return any(use.state == "damaged" for use in self.uses)

    def to_json(self, values: bool = False) -> str:
        """An object with the list `trials`, one a line, with all their values where asked for."""
        write = json.JSONEncoder(ensure_ascii=False).encode
        rows = (write(_row(use, values)) for use in self.uses)
        return '{"trials": [\n' + ",\n".join(rows) + "\n]}"


def _row(use: Planned, values: bool) -> dict[str, Any]:
    row = {
        "id": use.trial.id,
        "spec": use.spec.name,
        "row": use.row,
        "seed": use.trial.seed,
        "state": use.state,
    }
    if use.trial.parents:
        row["parents"] = list(use.trial.parents)
    row |= {"reason": use.reason} if use.reason else {}
    return row | ({"values": use.trial.values} if values else {})


def make_plan(
    specs: Sequence[Spec],
    runs: Path,
    where: Sequence[str] = (),
    look: Callable[[Path], journal.State] = folder.state_of,
    *,
    data: bool = True,
) -> Plan:
    """Look up the state of every trial of the specs, of those alone that match every `key=value`
    of `where`, and of the trials that these start from.

    `look` tells the state of a run directory that is not finished; one that remembers what it saw
    saves a second look. A trial of which a record is committed is finished, on a fresh clone
    too, unless it is trained again here. `data`: whether one is refused whose data set is not
    here.
    """
    with without_gc():
        return _make_plan(select(specs, where), runs, look, Needs(data))


def _make_plan(
    groups: list["_Group"], runs: Path, look: Callable[[Path], journal.State], needs: Needs
) -> Plan:
    groups += _parents(groups)
    committed = records.counted(runs)
    wanted = dict.fromkeys(trial.id for _, _, trials in groups for trial in trials)
    judge = _Judge(runs, groups, _states(runs, committed, wanted, look), committed, needs)
    kept = {
        trial.id: trial  # of two uses of a trial, the one that asks for weights to be kept counts
        for _, cell, trials in groups
        if cell.trials[0].values["train"].get("keep_best")
        for trial in trials
    }
    planned = tuple(
        Planned(spec, cell, kept.get(trial.id, trial), *judge(cell, trial))
        for spec, cell, trials in groups
        for trial in trials
    )
    old = records.former(runs, [use.trial for use in planned])
    return Plan(planned, frozenset(committed.keys() & wanted.keys()), old)


_Group = tuple[Spec, Cell, tuple[Trial, ...]]
"""Trials of one cell."""


def _parents(groups: Sequence[_Group]) -> list[_Group]:
    """The trials that others start from, and theirs, which are not among these."""
    left = deque((spec, cell) for spec, cell, _ in groups if cell.parents)
    known = {trial.id for _, _, trials in groups for trial in trials} if left else set()
    found = list[_Group]()
    while left:
        child, cell = left.popleft()
        for parent in cell.parents:
            spec = parent.spec or child
            left.append((spec, parent.cell))
            if parent.trial.id not in known:
                known.add(parent.trial.id)
                found.append((spec, parent.cell, (parent.trial,)))
    return found


class _Judge:
    """Says of each trial its state, why, and whether it can run."""

    def __init__(
        self,
        runs: Path,
        groups: Sequence[_Group],
        states: Mapping[str, journal.State],
        committed: Collection[str],
        needs: Needs,
    ) -> None:
        self.runs, self.states, self.committed, self.needs = runs, states, committed, needs
        self._starting = {
            parent.trial.id: (parent.spec or spec, parent.cell, parent.trial)
            for spec, cell, _ in groups
            for parent in cell.parents
        }
        """What others start from, by id."""
        self._known: dict[str, _Judged] = {}

    def __call__(self, cell: Cell, trial: Trial) -> "_Judged":
        """(state, reason, whether it can run) of a trial."""
        known = self._known.get(trial.id)
        if known is None:
            known = self._known[trial.id] = self._judge(cell, trial)
        return known

    def _judge(self, cell: Cell, trial: Trial) -> "_Judged":
        state = self.states[trial.id]
        if state == "finished":
            return _READY[state]
        if state == "damaged":
            return state, RunDir(self.runs / trial.id).damage() or "was mended meanwhile", False
        if cell.stopped and state == "interrupted":
            return "stopped", None, False
        if (missing := self.needs.missing(trial)) is not None:
            return "refused", missing, False
        if state in IDLE and cell.parents:
            for parent in trial.parents:
                if (found := self._waits_for(trial, parent)) is not None:
                    return found
        return _READY[state]

    def _waits_for(self, trial: Trial, parent: str) -> "_Judged | None":
        """What the state of its parent makes of a trial; None where it can start."""
        spec, cell, other = self._starting[parent]
        state, _, can_run = self(cell, other)
        label = f"{spec.name} · {cell.row} · seed {other.seed} ({parent})"
        if state == "finished":
            path = self.runs / parent / _WEIGHTS[trial.values["init"]["weights"]]
            if path.exists():
                return None
            reason = f"{label} is finished, but its weights are not here ({path}); "
            again = f"`python launch/run.py {spec.path} --force` trains it anew"
            return "blocked", f"{reason}{again}", False
        if not can_run:
            return "blocked", f"it starts from {label}, which is {state}", False
        if state in ("failed", "blocked"):
            how = "failed; run it again first" if state == "failed" else "is blocked itself"
            return "blocked", f"it starts from {label}, which {how}", True
        return "waiting", f"starts when {label} is finished", True


_Judged = tuple[State, str | None, bool]


_READY: Mapping[journal.State, _Judged] = {
    state: (state, None, True) for state in get_args(journal.State)
}
_WEIGHTS = {"last": rundir.WEIGHTS, "best": rundir.BEST_WEIGHTS}


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
    there = folder.names(runs)
    made = [
        identity for identity, state in states.items() if state == "waiting" and identity in there
    ]
    finished = folder.finished(runs, made)
    states |= dict.fromkeys(finished, "finished")
    others = [identity for identity in made if identity not in finished]
    states |= zip(
        others, folder.map_io(lambda identity: look(runs / identity), others), strict=True
    )
    return states
