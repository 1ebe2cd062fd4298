"""A spec, one table or figure of a paper as YAML, read strictly: all mistakes at once, each with
its place.

The grammar is described in `experiments/README.md`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from launch.garbage import without_gc
from launch.spec import figures
from launch.spec.claims import Claim, read_claims
from launch.spec.grammar.fields import read_fields
from launch.spec.grammar.overrides import Overrides
from launch.spec.grammar.published import read_published
from launch.spec.grammar.rows import (
    Choice,
    RowOverrides,
    is_seeds,
    read_axes,
    read_overrides,
    read_rows,
)
from launch.spec.grammar.search import Parts, read_search
from launch.spec.grammar.settings import SettingsLayer, read_settings
from launch.spec.grammar.table import Table
from launch.spec.grammar.yaml_source import SpecError, YamlPath, YamlSource, read
from launch.spec.metric import TableMetric, check_median, check_metric, read_metric
from launch.spec.resources import DEFAULT, check_resources, read_resources
from launch.spec.spec import WINNER, Cell, FigureSpec, Paper, Spec, with_winner
from rm.registry import RegistryError, suggestion, use_plugin

__all__ = [
    "WINNER",
    "Cell",
    "Claim",
    "FigureSpec",
    "Paper",
    "Spec",
    "SpecError",
    "TableMetric",
    "load_spec",
    "with_winner",
]


@dataclass(frozen=True)
class _File:
    """The top level of a spec file, before its settings are resolved."""

    title: str = ""
    paper: dict[str, Any] | None = None
    metric: dict[str, Any] | None = None
    margin: Annotated[float, "margin >= 0"] = 0.3
    margin_why: str = ""
    seeds: Any = None
    resources: Any = None
    trial: dict[str, Any] = field(default_factory=dict)
    axes: dict[str, Any] = field(default_factory=dict)
    rows: list[Any] = field(default_factory=list)
    search: dict[str, Any] = field(default_factory=dict)
    published: dict[str, Any] | list[Any] | None = None
    claims: list[Any] = field(default_factory=list)
    profiles: dict[str, Any] = field(default_factory=dict)
    plugins: list[Any] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)


def load_spec(
    path: str | Path,
    profile: str | None = None,
    seeds: Sequence[int] | None = None,
    overrides: Sequence[str] = (),
) -> Spec:
    """Read and resolve a spec; `profile` makes the smaller copy of that name, `seeds` replaces the
    spec's, and `overrides` are settings on top of it, such as `train.epochs=5`.

    Raises SpecError, whose text has one line `file:line:column: message` for every mistake in the
    file.
    """
    with without_gc():
        return _Loading().load(Path(path), Asked(profile, seeds, tuple(overrides)))


class Asked(NamedTuple):
    """What the command line wants of a spec, beside what it says itself."""

    profile: str | None = None
    seeds: Sequence[int] | None = None
    overrides: tuple[str, ...] = ()


class _Loading:
    """One call of `load_spec`: specs that others start from are read once."""

    def __init__(self) -> None:
        self.stack: list[tuple[Path, str | None]] = []
        self.loaded: dict[tuple[Path, str | None], Spec] = {}

    def load(self, path: Path, asked: Asked) -> Spec:
        self.stack.append((path.resolve(), asked.profile))
        try:
            return _load(path, asked, self.parent)
        finally:
            self.stack.pop()

    def parent(self, path: Path, profile: str | None) -> Spec:
        """A spec that another one starts from; SpecError in a circle."""
        key = (path.resolve(), profile)
        if key in self.stack:
            circle = [place.stem for place, _ in (*self.stack[self.stack.index(key) :], key)]
            source = YamlSource(path, None)
            source.error((), f"cycle: {' starts from '.join(circle)}")
            source.raise_errors()
        if key not in self.loaded:
            self.loaded[key] = self.load(path, Asked(profile))
        return self.loaded[key]


def _load(path: Path, asked: Asked, parent: Any) -> Spec:
    source = read(path)
    file = _top_level(source)
    _use_plugins(source, file.plugins)
    chosen = _Profile.read(source, file, asked.profile)
    overrides = Overrides(source, asked.overrides)
    base = read_settings(source, ("trial",), file.trial)
    axes, choices = _axes(source, file)
    labels = [[choice.label for choice in axis] for axis in choices]
    metric = read_metric(source, file.metric, chosen.data)
    names = (metric.name, *metric.also)
    table = Table(source, choices, base, (chosen.layer, overrides), asked.profile, parent)
    table.metric = metric.name
    table.published = read_published(source, labels, names, file.rows, file.published)
    table.seeds = (asked.seeds or chosen.overrides.seeds, _seeds(source, file.seeds))
    above = chosen.overrides.resources or (DEFAULT if asked.profile else None)
    table.resources = (above, read_resources(source, (), source.data) or DEFAULT)
    cells = table.cells()
    overrides.check_all_taken()
    firsts = {cell.labels: cell.trials[0] for cell in cells if cell.trials}
    check_metric(source, metric, firsts)
    if asked == Asked(seeds=asked.seeds):
        check_median(source, metric, firsts)
    check_resources(source, table.used_resources, bool(file.search))
    search = None
    if file.search:
        search = read_search(source, chosen.searches, table.above(base), table.resolver)
        if labels:
            labels[-1].append(WINNER)  # claims may be about it
    untried = {cell.labels for cell in cells if not cell.trials}
    claims = read_claims(source, file.claims, labels, untried)
    drawn = _figures(source, file.figures)
    source.raise_errors()
    return Spec(
        path,
        file.title,
        Paper(**file.paper) if file.paper else None,
        metric,
        file.margin,
        tuple(table.seeds[0] or table.seeds[1]),
        asked.profile,
        tuple(file.profiles),
        axes,
        cells,
        claims,
        drawn,
        search,
        file.margin_why,
        overrides.texts,
    )


def _use_plugins(source: YamlSource, paths: Sequence[Any]) -> None:
    """Offer what these files define, beside the spec or wherever they say, to this and all specs
    of the command.
    """
    for i, path in enumerate(paths):
        if not isinstance(path, str) or not path.endswith(".py"):
            source.error(("plugins", i), f"a plugin is a file of Python, found {path!r}")
            continue
        try:
            use_plugin((source.path.parent / Path(path).expanduser()).resolve())
        except RegistryError as error:
            source.error(("plugins", i), str(error))


def _axes(source: YamlSource, file: _File) -> tuple[tuple[str, ...], list[list[Choice]]]:
    """Their names, and the choices of each."""
    if file.rows:
        return ("row",), [read_rows(source, file.rows, WINNER if file.search else None)]
    return tuple(file.axes), read_axes(source, file.axes)


def _top_level(source: YamlSource) -> _File:
    """The file's shape. What is wrong in one entry does not hide what is wrong in the others."""
    data = source.data
    if not isinstance(data, dict):
        source.error((), f"a spec is a mapping with title, trial, axes or rows; found {data!r}")
        source.raise_errors()
    file = _File(**read_fields(source, (), data, _File, "a spec"))
    if "title" not in data:
        source.error((), "a spec needs 'title'")
    if bool(data.get("axes")) == bool(data.get("rows")):
        at: YamlPath = ("rows",) if "rows" in data else ()
        source.error(at, "a spec has either axes (a product) or rows (line by line)", key=True)
    elif data.get("search") and not data.get("rows"):
        message = (
            "a spec that searches has rows: what its winner is compared with, such as the baseline"
        )
        source.error(("axes",), message, key=True)
    if file.paper is not None:
        read_fields(source, ("paper",), file.paper, Paper, "paper", prefix="paper.")
    return file


def _seeds(source: YamlSource, seeds: Any) -> list[int]:
    if seeds is None:
        return [0]
    if not is_seeds(seeds):
        source.error(("seeds",), f"seeds: must be a list of whole numbers >= 0, found {seeds!r}")
    elif len(set(seeds)) != len(seeds):
        source.error(("seeds",), f"seeds: must not name a seed twice, found {seeds!r}")
    else:
        return list(seeds)
    return [0]


@dataclass(frozen=True)
class _Profile:
    """The chosen profile: what it sets, what is its own, and its changes to the search."""

    data: Mapping[str, Any]
    layer: SettingsLayer
    overrides: RowOverrides
    searches: Parts

    @classmethod
    def read(cls, source: YamlSource, file: _File, name: str | None) -> "_Profile":
        """The others are checked for their keys."""
        search: Parts = [(("search",), file.search)]
        chosen = cls({}, SettingsLayer({}, {}), RowOverrides(), search)
        if name is not None and name not in file.profiles:
            message = f"no profile '{name}'{suggestion(name, file.profiles)}"
            source.error(("profiles",), message, key=True)
        for key, data in file.profiles.items():
            at = ("profiles", key)
            if not isinstance(data, dict):
                source.error(at, f"a profile is a mapping of settings, found {data!r}")
                continue
            smaller = data.get("search", {})
            if "search" in data and not (file.search and isinstance(smaller, dict)):
                message = "a profile's search is a mapping that changes keys of the spec's search"
                source.error((*at, "search"), message, key=True)
                smaller = {}
            overrides = read_overrides(source, at, data)
            if "quoted" in data:
                message = "'quoted' is of a row, or of a labelled group of settings"
                source.error((*at, "quoted"), message, key=True)
            other = ("search", *(k for k in data if k.partition(".")[0] == "metric"))
            layer = read_settings(source, at, data, skip=(*RowOverrides._fields, *other))
            if key == name:
                parts = [*search, ((*at, "search"), smaller)]
                chosen = cls(data, layer, overrides, parts)
        return chosen


def _figures(source: YamlSource, written: Mapping[str, Any]) -> tuple[FigureSpec, ...]:
    known, found = figures.names(), []
    for name, data in written.items():
        at = ("figures", name)
        draw = data.get("draw") if isinstance(data, dict) else None
        if draw not in known:
            has = isinstance(data, dict) and "draw" in data
            message = f"figure '{name}': unknown draw '{draw}'{suggestion(str(draw), known)}"
            source.error((*at, "draw") if has else at, message, key=not has)
            continue
        options = {key: value for key, value in data.items() if key != "draw"}
        for option, message in figures.check(str(draw), options):
            source.error((*at, option) if option else at, message, key=option not in options)
        found.append(FigureSpec(name, str(draw), options))
    return tuple(found)
