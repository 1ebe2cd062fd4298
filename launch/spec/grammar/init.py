"""`init` in a spec: the trial, or the file, whose weights a trial starts from.

    init: {from: table5, row: "ResNet-50 · Baseline"}     # part, weights, seed, profile
    init: {file: resnet50-0676ba61.pth, sha256: 0676ba61...}
    init: {trial: {dataset: ..., method: ...}}            # written here, for what no table shows
    init: none

It resolves to the id of the other trial, or to the file's sha256; labels and paths are no part of
a trial's identity.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from launch.spec.grammar.locate import RowIndex, digest, find_spec, known_specs, weights_path
from launch.spec.grammar.resolver import Resolver
from launch.spec.grammar.settings import (
    INIT_KINDS,
    Setting,
    Settings,
    SettingsLayer,
    read_settings,
)
from launch.spec.grammar.yaml_source import Position, SpecError
from launch.spec.spec import Cell, Parent, Spec
from launch.spec.trial import Trial
from rm import registry
from rm.registry import suggestion

_KEYS = {
    "from": ("from", "row", "profile", "seed", "part", "weights"),
    "trial": ("trial", "seed", "part", "weights"),
    "file": ("file", "sha256", "part"),
}
_REQUIRED = {"from": ("row",), "trial": (), "file": ("sha256",)}


class Start(NamedTuple):
    """What one trial starts from, as its values have it, and the trial that leaves it, if one
    does.
    """

    values: Mapping[str, Any]
    parent: Parent | None


class Table(Protocol):
    """Cells that a row can be looked for in: those of another spec, or of this one, where each is
    resolved when it is asked for; `resolving` are those that are so at the moment.
    """

    resolving: list[int]

    @property
    def index(self) -> RowIndex: ...
    def cell(self, number: int) -> Cell | None: ...


class SpecTable:
    """The cells of a resolved spec."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.resolving: list[int] = []
        self.index = RowIndex([cell.labels for cell in spec.cells])

    def cell(self, number: int) -> Cell | None:
        return self.spec.cells[number]


class _Wrong(Exception):
    """Ends the reading of one `init`; a mistake at this position."""

    def __init__(self, position: Position, message: str) -> None:
        super().__init__(message)
        self.position = position


class InitReader:
    """Resolves the `init` of a spec's trials.

    own      the cells of this spec
    profile  of this spec, as it is read now
    load     another spec, by its file and profile
    nested   the layer of a nested trial: on top of the spec's `trial`, below its profile
    """

    def __init__(
        self,
        resolver: Resolver,
        own: Table,
        profile: str | None,
        load: Callable[[Path, str | None], Spec],
        nested: Callable[[SettingsLayer], SettingsLayer],
    ) -> None:
        self.resolver, self.source = resolver, resolver.source
        self.own, self.profile, self.load, self.nested = own, profile, load, nested
        self._known: dict[tuple[Any, ...], list[Start] | None] = {}
        self._tables: dict[tuple[Path, Any], SpecTable] = {}
        self._kept: list[Any] = []
        """What the `id()`s in `_known` are of."""

    def starts(
        self, settings: Settings, values: Mapping[str, Any], seeds: Sequence[int], row: str
    ) -> list[Start] | None:
        """For each seed of a trial of these values, as far as they are valid; empty where it
        starts from random weights, None where something is wrong.

        row   how its cell is called
        """
        if not any(section == "init" for section, _ in settings):
            return []
        given = {option: s for (section, option), s in settings.items() if section == "init"}
        if not given or "none" in given or set(given) == {"profile"}:
            return []
        key = (*(id(s) for s in given.values()), id(values.get("backbone")), *seeds)
        if key not in self._known:
            self._kept.append((given, values))
            try:
                self._known[key] = self._starts(given, values, seeds, row)
            except _Wrong as error:
                self.source.error(error.position, str(error))
                self._known[key] = None
        return self._known[key]

    def _starts(
        self,
        given: Mapping[str, Setting],
        values: Mapping[str, Any],
        seeds: Sequence[int],
        row: str,
    ) -> list[Start] | None:
        kinds = [kind for kind in INIT_KINDS if kind in given]
        position = min(setting.key for setting in given.values())
        if len(kinds) != 1:
            message = "init has one of 'from' (with 'row'), 'file' (with 'sha256') and 'trial'"
            raise _Wrong(position, message)
        options = self._options(kinds[0], given)
        if options is None:
            return None
        if kinds[0] == "file":
            return self._file(given, options, len(seeds))
        by = {"part": options["part"], "weights": options.get("weights", "last")}
        cell, spec = None, None
        if kinds[0] == "trial":
            cell = self._nested_cell(given["trial"], self._wanted_seeds(given, seeds), row)
        else:
            table = self._table(given)
            spec = table.spec if isinstance(table, SpecTable) else None
            cell = self._find(table, given, values, by["part"])
        if cell is None or not self._fits(cell, values, given.get("row") or given["trial"], by):
            return None
        return self._by_seed(cell, spec, given, seeds, by)

    def _options(self, kind: str, given: Mapping[str, Setting]) -> dict[str, Any] | None:
        """Check the keys and those values that end in the trial; None where one is wrong."""
        mistakes: list[tuple[Position, str]] = []
        for option, setting in given.items():
            if option not in _KEYS[kind] and option != "profile":
                message = f"init with '{kind}' has no '{option}'{suggestion(option, _KEYS[kind])}"
                mistakes.append((setting.key, message))
        for option in _REQUIRED[kind]:
            if option not in given:
                mistakes.append((given[kind].position, f"init with '{kind}' needs '{option}'"))
        kept = ("part", "weights", "file", "sha256")
        plain = {option: s.value for option, s in given.items() if option in kept}
        options, wrong = registry.check("init", plain)
        for violation in wrong:
            place = given[violation.option].position if violation.option else given[kind].position
            mistakes.append((place, violation.message))
        seed = given.get("seed")
        if seed and seed.value != "same" and (type(seed.value) is not int or seed.value < 0):
            message = f"init.seed must be 'same' or a whole number >= 0, found {seed.value!r}"
            mistakes.append((seed.position, message))
        for place, message in mistakes:
            self.source.error(place, message)
        return None if mistakes else options

    def _file(
        self, given: Mapping[str, Setting], options: dict[str, Any], count: int
    ) -> list[Start] | None:
        path = weights_path(options["file"])
        found = digest(path, path.stat().st_mtime_ns) if path.exists() else options["sha256"]
        if not found.startswith(options["sha256"].lower()):
            message = f"{path} has sha256 {found}, not {options['sha256']}"
            raise _Wrong(given["sha256"].position, message)
        return [Start(options, None)] * count

    def _table(self, given: Mapping[str, Setting]) -> Table:
        """Where the row is: this spec, or the one named."""
        name, profile = given["from"].value, given.get("profile")
        if not isinstance(name, str):
            raise _Wrong(given["from"].position, f"init.from is a spec, found {name!r}")
        if name == self.source.path.stem and (not profile or profile.value == self.profile):
            return self.own
        path = find_spec(name, self.source.path.parent)
        if path is None:
            valid = suggestion(name, known_specs(self.source.path.parent))
            raise _Wrong(given["from"].position, f"no spec '{name}'{valid}")
        try:
            key = path, profile.value if profile else None
            if key not in self._tables:
                self._tables[key] = SpecTable(self.load(*key))
            return self._tables[key]
        except SpecError as error:
            first, *more = str(error).splitlines()
            rest = f" (and {len(more)} more)" if more else ""
            message = f"{name} cannot be started from: {first}{rest}"
            raise _Wrong(given["from"].position, message) from None

    def _find(
        self, table: Table, given: Mapping[str, Setting], values: Mapping[str, Any], part: str
    ) -> Cell | None:
        """The one cell that `row` names: by all of its labels, or by some of them where no other
        has these and the backbone of the trial that starts from it.
        """
        row, position = given["row"].value, given["row"].position
        index = table.index
        numbers = index.find(str(row))
        if not numbers:
            valid = suggestion(str(row), index.names)
            raise _Wrong(position, f"no row '{row}' in {given['from'].value}{valid}")
        if circle := [index.names[i] for i in numbers if i in table.resolving]:
            raise _Wrong(position, f"cycle: row '{circle[0]}' starts from itself")
        cells = [cell for cell in map(table.cell, numbers) if cell is not None]
        if cells and not any(cell.trials for cell in cells):
            raise _Wrong(position, f"'{cells[0].row}' is quoted: it has no trial")
        cells = [cell for cell in cells if cell.trials]
        if len(cells) > 1 and part == "backbone":
            same = [c for c in cells if _same_weights(c.trials[0].values, values)]
            cells = same or cells[:1]
        rows = {cell.trials[0].id: cell.row for cell in cells}  # in a profile some may be the same
        if len(rows) > 1:
            several = "; ".join([*rows.values()][:5])
            message = f"'{row}' matches several rows of {given['from'].value}: {several}"
            raise _Wrong(position, message)
        return cells[0] if cells else None  # what is wrong with it was noted there

    def _nested_cell(self, setting: Setting, seeds: Sequence[int], row: str) -> Cell | None:
        layer = read_settings(self.source, setting.at, setting.value)
        layer = self.nested(layer)
        values = self.resolver.values(layer.settings, setting.at)
        if values is None:
            return None
        starts = self.starts(layer.settings, values, seeds, f"init of {row}")
        if starts is None:
            return None
        trials = Trial.for_seeds(values, seeds, {}, [start.values for start in starts])
        parents = unique_parents(starts)
        return Cell((f"init of {row}",), None, trials, layer.assumed, parents=parents)

    def _wanted_seeds(self, given: Mapping[str, Setting], seeds: Sequence[int]) -> Sequence[int]:
        seed = given.get("seed")
        return seeds if seed is None or seed.value == "same" else (seed.value,)

    def _fits(
        self, cell: Cell, values: Mapping[str, Any], setting: Setting, by: Mapping[str, str]
    ) -> bool:
        """Whether a trial of `values` can start from the trials of a cell."""
        other, message = cell.trials[0].values, None
        if "probe" in other:
            message = f"'{cell.row}' is a measurement (probe '{other['probe']['name']}')"
            message += ", which leaves no weights"
        elif registry.leaves_no_backbone(other) and not registry.leaves_no_backbone(values):
            message = f"'{cell.row}' is of {registry.task(other).title}: it leaves no backbone"
        elif by["part"] == "backbone" and not _same_weights(other, values):
            theirs, ours = (_describe(v["backbone"]) for v in (other, values))
            message = f"'{cell.row}' has backbone {theirs}, but this trial {ours}"
        elif by["weights"] == "best" and not other["train"].get("keep_best"):
            message = f"'{cell.row}' keeps no best weights: set train.keep_best: true there "
            message += "(no id changes), or start from weights: last"
        if message is not None:
            self.source.error(setting.position, message)
        return message is None

    def _by_seed(
        self,
        cell: Cell,
        spec: Spec | None,
        given: Mapping[str, Setting],
        seeds: Sequence[int],
        by: Mapping[str, str],
    ) -> list[Start] | None:
        """For each seed the parent of the same seed, or the only one, or that of `seed: N`."""
        trials, starts = {trial.seed: trial for trial in cell.trials}, []
        fixed = self._wanted_seeds(given, ()) or None
        for seed in seeds:
            wanted = fixed[0] if fixed else seed
            trial = trials.get(wanted)
            if trial is None and fixed is None and len(trials) == 1:
                trial = cell.trials[0]
            if trial is None:
                place = given.get("seed") or given.get("row") or given["trial"]
                known = ", ".join(map(str, trials))
                message = f"'{cell.row}' has no trial of seed {wanted}; its seeds: {known}"
                raise _Wrong(place.position, message)
            starts.append(Start({"trial": trial.id, **by}, Parent(spec, cell, trial)))
        return starts


def unique_parents(starts: Sequence[Start]) -> tuple[Parent, ...]:
    """The trials that these start from, each once."""
    found = {s.parent.trial.id: s.parent for s in starts if s.parent is not None}
    return tuple(found.values())


def _same_weights(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether backbones take each other's weights; where one is wrong, that is noted elsewhere."""
    backbones = (one.get("backbone"), other.get("backbone"))
    plain = []
    for backbone in filter(None, backbones):
        weightless = registry.entry("backbone", backbone["name"]).weightless
        plain.append({k: v for k, v in backbone.items() if k not in weightless})
    return len(plain) < 2 or plain[0] == plain[1]


def _describe(backbone: Mapping[str, Any]) -> str:
    options = ", ".join(f"{k} {v}" for k, v in backbone.items() if k != "name")
    return f"'{backbone['name']}'{f' ({options})' if options else ''}"
