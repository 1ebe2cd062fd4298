"""`--where key=value`: which cells of some specs are meant."""

import json
from collections.abc import Iterable, Sequence

from launch.errors import FilterError
from launch.spec.spec import Cell, Spec


def select(specs: Sequence[Spec], where: Sequence[str]) -> list[tuple[Spec, Cell]]:
    """The cells that match every condition, in the order of the specs; FilterError where none
    does.
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
    return chosen


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
