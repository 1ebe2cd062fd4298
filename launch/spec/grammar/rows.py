"""The axes of a table, or its rows: what each label sets, and what else it has of its own."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from launch.spec.grammar.settings import SettingsLayer, read_setting, read_settings
from launch.spec.grammar.yaml_source import YamlPath, YamlSource
from launch.spec.resources import Located, Resources, read_resources
from rm.registry import TRIAL_SECTIONS


class RowOverrides(NamedTuple):
    """What a profile, a row or a labelled group of settings has of its own beside its settings.

    quoted   where the paper has the numbers from, of a row that is not its own
    """

    seeds: list[int] | None = None
    resources: Located[Resources] | None = None
    quoted: str | None = None


class Choice(NamedTuple):
    """One value of an axis, or one row."""

    label: str
    layer: SettingsLayer
    overrides: RowOverrides


def read_overrides(source: YamlSource, at: YamlPath, data: Mapping[str, Any]) -> RowOverrides:
    """`seeds`, `resources` and `quoted` of the mapping at `at`."""
    resources = read_resources(source, at, data)
    seeds = data.get("seeds")
    if seeds is not None and not is_seeds(seeds):
        source.error((*at, "seeds"), f"seeds must be a list of whole numbers, found {seeds!r}")
        seeds = None
    elif seeds is not None and len(set(seeds)) != len(seeds):
        source.error((*at, "seeds"), f"seeds must not name a seed twice, found {seeds!r}")
        seeds = None
    quoted = data.get("quoted")
    if quoted is not None and not (isinstance(quoted, str) and quoted.strip()):
        source.error((*at, "quoted"), f"quoted says whence, in words; found {quoted!r}")
        quoted = None
    return RowOverrides(seeds, resources, quoted)


def is_seeds(seeds: Any) -> bool:
    """Whether they are at least one whole number from 0 on."""
    return (
        isinstance(seeds, list) and bool(seeds) and all(type(s) is int and s >= 0 for s in seeds)
    )


def read_axes(source: YamlSource, axes: Mapping[str, Any]) -> list[list[Choice]]:
    """For each axis its choices."""
    return [_axis(source, axis, data) for axis, data in axes.items()]


def _axis(source: YamlSource, axis: str, data: Any) -> list[Choice]:
    at: YamlPath = ("axes", axis)
    if not isinstance(data, dict | list):
        message = f"axis '{axis}' is a mapping label: choice, or a list of choices; found {data!r}"
        source.error(at, message)
        return []
    if not data:
        source.error(at, f"axis '{axis}' has no values")
    if isinstance(data, dict):
        items = [(label, value, (*at, label)) for label, value in data.items()]
    else:
        items = [(str(value), value, (*at, i)) for i, value in enumerate(data)]
        _each_once(source, at, data)
    choices = []
    for label, value, place in items:
        layer, overrides = SettingsLayer({}, {}), RowOverrides()
        if axis.partition(".")[0] in TRIAL_SECTIONS:
            read_setting(source, axis, value, place, layer)
        else:
            layer = read_settings(source, place, value, skip=RowOverrides._fields)
            if isinstance(value, dict):
                overrides = read_overrides(source, place, value)
        choices.append(Choice(label, layer, overrides))
    return choices


def _each_once(source: YamlSource, at: YamlPath, values: Sequence[Any]) -> None:
    """`0.1` and `0.10`, or `1` and `1.0`, are one value."""
    seen: dict[tuple[bool, str], int] = {}
    for i, value in enumerate(values):
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        first = seen.setdefault((is_number, str(float(value) if is_number else value)), i)
        if first != i:
            line = source.position((*at, first)).line
            source.error((*at, i), f"axis '{at[-1]}' has {value!r} already, at line {line}")


def read_rows(source: YamlSource, rows: list[Any], reserved: str | None) -> list[Choice]:
    """The rows of a spec that is written line by line.

    reserved   a label that no row may have
    """
    choices: list[Choice] = []
    labels: set[str] = set()
    for i, row in enumerate(rows):
        at: YamlPath = ("rows", i)
        label = row.get("row") if isinstance(row, dict) else None
        if label is not None and not isinstance(label, str | dict | list):
            message = f"a row's label is text, and {label!r} is none: write it in quotes"
            source.error((*at, "row"), message)
        elif not isinstance(label, str):
            source.error(at, "every row needs its label: {row: ..., method: ...}")
        elif label == reserved:
            source.error((*at, "row"), f"the row '{label}' is the search's own")
        elif label in labels:
            source.error((*at, "row"), f"a row labelled '{label}' is there already")
        if isinstance(row, dict):
            skip = ("row", "published", *RowOverrides._fields)
            layer = read_settings(source, at, row, skip)
            choices.append(Choice(str(label), layer, read_overrides(source, at, row)))
            labels.add(str(label))
    return choices
