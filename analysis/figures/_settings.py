"""What a cell's trials were told, by dotted key."""

from collections.abc import Mapping
from typing import Any

from launch.spec.load import Cell

_PARENT = "init."


def setting(cell: Cell, key: str) -> Any:
    """The value at `key` in a cell's first trial; a section alone is its name; None where nothing
    is. `init.method.alpha` is of the trial that this one starts from.
    """
    value: Any = cell.trials[0].values
    if key.startswith(_PARENT) and cell.parents:
        key, value = key.removeprefix(_PARENT), cell.parents[0].trial.values
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value["name"] if isinstance(value, Mapping) and "name" in value else value
