"""`--where key=value`: which trials of some specs are meant."""

import difflib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from launch.errors import FilterError
from launch.spec.grammar.yaml_source import scalar
from launch.spec.spec import Cell, Spec
from launch.spec.trial import Trial
from rm.registry import suggestion

SHOWN_VALUES = 8
"""Of those that a key has, where none of them is the one asked for."""


class _Condition(NamedTuple):
    """`key=value`: the value as it is typed, and as YAML reads it."""

    key: str
    text: str
    value: Any

    @classmethod
    def read(cls, typed: str) -> "_Condition":
        key, equals, value = (part.strip() for part in typed.partition("="))
        if not equals:
            raise FilterError(
                "--where takes key=value, such as backbone=resnet18 or method.alpha=0.5; found "
                f"'{typed}'"
            )
        return cls(key, value, scalar(value))

    @property
    def differs_by_seed(self) -> bool:
        return self.key == "seed" or self.key.startswith("init")

    def holds(self, spec: Spec, cell: Cell, trial: Trial) -> bool:
        return any(self._is(found) for found in _found(self.key, spec, cell, trial))

    def _is(self, found: Any) -> bool:
        if isinstance(found, str):
            return found == self.text
        if found is None:
            return self.value is None or self.text == "None"
        return bool(found == self.value) and isinstance(found, bool) == isinstance(
            self.value, bool
        )


def select(
    specs: Sequence[Spec], where: Sequence[str]
) -> list[tuple[Spec, Cell, tuple[Trial, ...]]]:
    """The trials that match every condition, by their cells, in the order of the specs;
    FilterError where none does.
    """
    conditions = [_Condition.read(text) for text in where]
    of_cells = [each for each in conditions if not each.differs_by_seed]
    of_trials = [each for each in conditions if each.differs_by_seed]
    chosen = []
    for spec in specs:
        for cell in spec.cells:
            if cell.trials and all(each.holds(spec, cell, cell.trials[0]) for each in of_cells):
                trials = cell.trials
                if of_trials:
                    trials = tuple(
                        trial
                        for trial in trials
                        if all(each.holds(spec, cell, trial) for each in of_trials)
                    )
                if trials:
                    chosen.append((spec, cell, trials))
    if where and not chosen:
        raise FilterError(_why_none(specs, conditions))
    return chosen


def _found(key: str, spec: Spec, cell: Cell, trial: Trial) -> Iterator[Any]:
    """What a trial has under a key: the label on an axis, a section's name, and the resolved value
    of a dotted key.
    """
    if key in spec.axes:
        yield cell.labels[spec.axes.index(key)]
    values = trial.flat()
    for candidate in (key, f"{key}.name"):
        if candidate in values:
            yield values[candidate]


def _why_none(specs: Sequence[Spec], conditions: Sequence[_Condition]) -> str:
    for condition in conditions:
        there = {
            str(found): None
            for spec in specs
            for cell in spec.cells
            for trial in cell.trials
            for found in _found(condition.key, spec, cell, trial)
        }
        if not there:
            valid = _keys(specs)
            return (
                f"--where {condition.key}={condition.text}: no trial has the key "
                f"'{condition.key}'{suggestion(condition.key, valid)}"
            )
        if not any(
            condition.holds(spec, cell, trial)
            for spec in specs
            for cell in spec.cells
            for trial in cell.trials
        ):
            some = ", ".join(list(there)[:SHOWN_VALUES])
            more = f" and {len(there) - SHOWN_VALUES} more" if len(there) > SHOWN_VALUES else ""
            close = difflib.get_close_matches(condition.text, there, n=1, cutoff=0.6)
            near = f"; did you mean '{close[0]}'?" if close else ""
            return (
                f"--where {condition.key}={condition.text}: no trial has that value of "
                f"'{condition.key}'; there are {some}{more}{near}"
            )
    typed = " ".join(f"{each.key}={each.text}" for each in conditions)
    return f"--where {typed}: each matches some trials, and none matches all of them"


def _keys(specs: Iterable[Spec]) -> list[str]:
    keys = {
        key
        for spec in specs
        for trial in spec.trials[:1]
        for key in (*spec.axes, *trial.values, *trial.flat())
    }
    return sorted(keys)
