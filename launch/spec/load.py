"""A spec, one table or figure of a paper as YAML, read strictly: all mistakes at once, each with
its place.

The grammar is described in `experiments/README.md`.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from launch.paths import ROOT
from launch.runs.resources import ONE, Resources
from launch.spec.claims import Claim, read_claims
from launch.spec.metric import Metric, misfit
from launch.spec.published import read_published
from launch.spec.resources_grammar import NONE_WRITTEN, Placed, read_resources, refuse_misfits
from launch.spec.search import SampleResult, Search, said
from launch.spec.search_grammar import Parts, read_search
from launch.spec.settings import Resolver, Written, merge, reason, set_value, settings_at
from launch.spec.trial import Trial
from launch.spec.yaml_source import Document, Place, Problem, SpecError, read
from rm.registry import TRIAL_SECTIONS as SECTIONS
from rm.registry import suggestion

__all__ = [
    "Cell",
    "Claim",
    "FigureSpec",
    "Metric",
    "Paper",
    "Spec",
    "SpecError",
    "load_spec",
    "with_winner",
]

WINNER = "winner"
"""The row of what a search found."""

FIGURES = ROOT / "analysis" / "figures"


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class Paper(_Strict):
    """Which paper, by citation key, and which of its tables or figures."""

    key: str
    table: str


def _distinct(seeds: list[int]) -> list[int]:
    if len(set(seeds)) != len(seeds):
        raise ValueError("must not name a seed twice")
    return seeds


class _File(_Strict):
    """The top level of a spec file, before its settings are resolved."""

    title: str
    paper: Paper | None = None
    metric: Metric = Metric()
    margin: Annotated[float, Field(ge=0)] = 0.3
    seeds: Annotated[
        list[Annotated[int, Field(ge=0)]], Field(min_length=1), AfterValidator(_distinct)
    ] = [0]
    resources: Any = None
    trial: dict[str, Any] = {}
    axes: dict[str, dict[str, Any] | list[Any]] = {}
    rows: list[dict[str, Any]] = []
    search: dict[str, Any] = {}
    published: dict[str, Any] | list[Any] | None = None
    claims: list[str | dict[str, Any]] = []
    profiles: dict[str, dict[str, Any]] = {}
    figures: dict[str, dict[str, Any]] = {}


@dataclass(frozen=True)
class Cell:
    """One cell of the table: its label on each axis, what the paper prints, and a trial for each
    seed.

    also: what it prints of the metrics in `Metric.also`.
    stopped: a sample that its search has stopped, which nothing resumes.
    resources: what each of its trials is trained on.
    sample: of a search's sample, its number as `sample` and, where the scheduler stopped it, the
    epoch as `stopped`; records know it by these.
    """

    labels: tuple[str, ...]
    published: float | None
    trials: tuple[Trial, ...]
    assumed: Mapping[str, str]
    also: Mapping[str, float] = field(default_factory=dict)
    stopped: bool = False
    resources: Resources = ONE
    sample: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class FigureSpec:
    """A figure drawn by `analysis/figures/<draw>.py` with these options."""

    name: str
    draw: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Spec:
    """A spec file, resolved: nothing in it is left to be looked up or defaulted."""

    path: Path
    title: str
    paper: Paper | None
    metric: Metric
    margin: float
    seeds: tuple[int, ...]
    profile: str | None
    profiles: tuple[str, ...]
    axes: tuple[str, ...]
    cells: tuple[Cell, ...] = field(repr=False)
    claims: tuple[Claim, ...]
    figures: tuple[FigureSpec, ...]
    search: Search | None = None
    """Of a spec that searches: its cells are what the winner is compared with, until the winner is
    known.
    """

    @property
    def name(self) -> str:
        """The file's stem, by which records know the spec."""
        return self.path.stem

    @property
    def trials(self) -> tuple[Trial, ...]:
        """All trials in the order of the table, seeds innermost."""
        return tuple(trial for cell in self.cells for trial in cell.trials)

    @property
    def views(self) -> tuple["Spec", ...]:
        """This spec for its first metric, and a copy for each further one, with that metric's
        published numbers.
        """
        return (
            self,
            *(
                replace(
                    self,
                    metric=self.metric.model_copy(update={"name": name, "also": []}),
                    cells=tuple(
                        replace(cell, published=cell.also.get(name), also={})
                        for cell in self.cells
                    ),
                )
                for name in self.metric.also
            ),
        )


def load_spec(
    path: str | Path, profile: str | None = None, seeds: Sequence[int] | None = None
) -> Spec:
    """Read and resolve a spec; `profile` makes the smaller copy of that name, `seeds` replaces the
    spec's.

    Raises SpecError, whose text has one line `file:line:column: message` for every mistake in the
    file.
    """
    document = read(Path(path))
    problems: list[Problem] = []
    file = _top_level(document, problems)
    if file is None:
        raise SpecError(document.path, problems)
    written_profile, own_of_profile, searches = _profile(document, file, profile, problems)
    forced = seeds or own_of_profile.seeds
    whole = read_resources(document, (), document.data, problems) or NONE_WRITTEN
    smaller = own_of_profile.resources or (NONE_WRITTEN if profile else None)
    asked: list[tuple[Placed, Trial]] = []
    axes, choices = (
        _rows(document, file, problems) if file.rows else _axes(document, file, problems)
    )
    labels = [[choice.label for choice in axis] for axis in choices]
    metrics = [file.metric.name, *file.metric.also]
    published = read_published(document, labels, metrics, file.rows, file.published, problems)
    base = settings_at(document, ("trial",), file.trial, problems)
    resolver = Resolver(document, problems)
    texts: dict[int, str] = {}
    cells = []
    for combination in itertools.product(*choices):
        written = base
        for choice in combination:
            written = merge(written, choice.written)
        written = merge(written, written_profile)
        values = resolver.values(written.settings, ("trial",))
        if values is not None:
            own = next(
                (choice.own.seeds for choice in reversed(combination) if choice.own.seeds), None
            )
            trials = Trial.for_seeds(values, forced or own or file.seeds, texts)
            placed = smaller or next(
                (c.own.resources for c in reversed(combination) if c.own.resources), whole
            )
            asked.append((placed, trials[0]))
            names = tuple(choice.label for choice in combination)
            numbers = published.get(names, {})
            first = numbers.pop(file.metric.name, None)
            cells.append(
                Cell(names, first, trials, written.assumed, numbers, resources=placed.resources)
            )
    if why := misfit(file.metric, {cell.labels: cell.trials[0].values for cell in cells}):
        problems.append(
            Problem(document.mark(("metric",) if "metric" in document.data else (), key=True), why)
        )
    refuse_misfits(document, asked, bool(file.search), problems)
    search = (
        read_search(document, searches, merge(base, written_profile), resolver)
        if file.search
        else None
    )
    if file.search and labels:
        labels[-1].append(WINNER)  # claims may be about it
    claims = read_claims(document, file.claims, labels, problems)
    figures = _figures(document, file, problems)
    if problems:
        raise SpecError(document.path, problems)
    return Spec(
        document.path, file.title, file.paper, file.metric, file.margin, tuple(forced or file.seeds),
        profile, tuple(file.profiles), axes, tuple(cells), claims, figures, search,
    )  # fmt: skip


def with_winner(spec: Spec, best: SampleResult) -> Spec:
    """A spec that searches with what it found as its last row: trained with every seed, on the
    full training set.
    """
    if spec.search is None:
        return spec
    point, number = best.sample.point, best.sample.number
    why = (
        f"sample {number} of {spec.search.samples} ({said(point)}), the best one on held-out "
        "training images"
    )
    cell = Cell((WINNER,), None, spec.search.trials(point, spec.seeds), dict.fromkeys(point, why))
    return replace(spec, cells=(*spec.cells, cell))


def _top_level(document: Document, problems: list[Problem]) -> _File | None:
    """The file's shape. What is wrong in one entry does not hide what is wrong in the others."""
    data = document.data
    if not isinstance(data, dict):
        problems.append(
            Problem(
                document.mark(()),
                f"a spec is a mapping with title, trial, axes or rows; found {data!r}",
            )
        )
        return None
    if bool(data.get("axes")) == bool(data.get("rows")):
        at: Place = ("rows",) if "rows" in data else ()
        problems.append(
            Problem(
                document.mark(at, key=True),
                "a spec has either axes (a product) or rows (line by line)",
            )
        )
    elif data.get("search") and not data.get("rows"):
        message = (
            "a spec that searches has rows: what its winner is compared with, such as the baseline"
        )
        problems.append(Problem(document.mark(("axes",), key=True), message))
    try:
        return _File.model_validate(data)
    except ValidationError as error:
        for detail in error.errors():
            at = tuple(
                part for part in detail["loc"] if not str(part).startswith(("dict[", "list["))
            )
            problems.append(
                Problem(
                    document.mark(at, key=detail["type"] == "extra_forbidden"),
                    _complaint(at, detail),
                )
            )
        bad = {detail["loc"][0] for detail in error.errors()}
        rest = {"title": "", **{k: v for k, v in data.items() if k not in bad}}
        return _File.model_validate(rest)


def _complaint(at: Place, detail: Any) -> str:
    name = ".".join(str(part) for part in at)
    if detail["type"] == "missing":
        return f"'{name}' is required"
    if detail["type"] == "extra_forbidden":
        models: dict[str, type[BaseModel]] = {"paper": Paper, "metric": Metric}
        valid = _File if len(at) == 1 else models[str(at[0])]
        return f"unknown key '{at[-1]}'{suggestion(str(at[-1]), valid.model_fields)}"
    return f"{name}: {reason(detail)}, found {detail['input']!r}"


def _profile(
    document: Document, file: _File, name: str | None, problems: list[Problem]
) -> tuple[Written, "_Own", Parts]:
    """The settings, what is its own, and changes to the search of the chosen profile; the others
    are checked for their keys.
    """
    search: Parts = [(("search",), file.search)]
    chosen: tuple[Written, _Own, Parts] = (Written({}, {}), _Own(), search)
    if name is not None and name not in file.profiles:
        problems.append(
            Problem(
                document.mark(("profiles",), key=True),
                f"no profile '{name}'{suggestion(name, file.profiles)}",
            )
        )
    for key, data in file.profiles.items():
        at = ("profiles", key)
        smaller = data.get("search", {})
        if "search" in data and not (file.search and isinstance(smaller, dict)):
            message = "a profile's search is a mapping that changes keys of the spec's search"
            problems.append(Problem(document.mark((*at, "search"), key=True), message))
            smaller = {}
        own = _own(document, at, data, problems)
        written = settings_at(document, at, data, problems, skip=(*_Own._fields, "search"))
        if key == name:
            chosen = written, own, [*search, ((*at, "search"), smaller)]
    return chosen


class _Own(NamedTuple):
    """What a profile, a row or a labelled group of settings has of its own beside its settings."""

    seeds: list[int] | None = None
    resources: Placed | None = None


def _own(document: Document, at: Place, data: Mapping[str, Any], problems: list[Problem]) -> _Own:
    resources = read_resources(document, at, data, problems)
    seeds = data.get("seeds")
    if seeds is None or (
        isinstance(seeds, list) and seeds and all(type(s) is int and s >= 0 for s in seeds)
    ):
        return _Own(seeds, resources)
    problems.append(
        Problem(
            document.mark((*at, "seeds")),
            f"seeds must be a list of whole numbers, found {seeds!r}",
        )
    )
    return _Own(None, resources)


class _Choice(NamedTuple):
    """One value of an axis, or one row: its label, what it sets, and what else it has of its
    own.
    """

    label: str
    written: Written
    own: _Own


Choices = list[list[_Choice]]
"""For each axis its choices."""


def _axes(
    document: Document, file: _File, problems: list[Problem]
) -> tuple[tuple[str, ...], Choices]:
    choices: Choices = []
    for axis, data in file.axes.items():
        at: Place = ("axes", axis)
        items = data.items() if isinstance(data, dict) else [(str(value), value) for value in data]
        places = (
            [(*at, key) for key in data]
            if isinstance(data, dict)
            else [(*at, i) for i in range(len(data))]
        )
        if not data:
            problems.append(Problem(document.mark(at), f"axis '{axis}' has no values"))
        choices.append([])
        for (label, value), place in zip(items, places, strict=True):
            written, own = Written({}, {}), _Own()
            if axis.partition(".")[0] in SECTIONS:
                set_value(document, axis, value, place, written, problems)
            else:
                written = settings_at(document, place, value, problems, skip=_Own._fields)
                own = _own(document, place, value, problems) if isinstance(value, dict) else own
            choices[-1].append(_Choice(label, written, own))
    return tuple(file.axes), choices


def _rows(
    document: Document, file: _File, problems: list[Problem]
) -> tuple[tuple[str, ...], Choices]:
    choices: list[_Choice] = []
    for i, row in enumerate(file.rows):
        label = row.get("row")
        if label == WINNER and file.search:
            problems.append(
                Problem(
                    document.mark(("rows", i, "row")), f"the row '{WINNER}' is the search's own"
                )
            )
        if not isinstance(label, str):
            problems.append(
                Problem(
                    document.mark(("rows", i)),
                    "every row needs its label: {row: ..., method: ...}",
                )
            )
        elif any(label == other.label for other in choices):
            problems.append(
                Problem(
                    document.mark(("rows", i, "row")), f"a row labelled '{label}' is there already"
                )
            )
        written = settings_at(
            document, ("rows", i), row, problems, skip=("row", "published", *_Own._fields)
        )
        choices.append(_Choice(str(label), written, _own(document, ("rows", i), row, problems)))
    return ("row",), [choices]


def _figures(document: Document, file: _File, problems: list[Problem]) -> tuple[FigureSpec, ...]:
    known = sorted(p.stem for p in FIGURES.glob("[!_]*.py"))
    figures = []
    for name, data in file.figures.items():
        draw = data.get("draw")
        if draw not in known:
            mark = document.mark(
                ("figures", name, "draw") if "draw" in data else ("figures", name),
                key="draw" not in data,
            )
            problems.append(
                Problem(
                    mark, f"figure '{name}': unknown draw '{draw}'{suggestion(str(draw), known)}"
                )
            )
        figures.append(FigureSpec(name, str(draw), {k: v for k, v in data.items() if k != "draw"}))
    return tuple(figures)
