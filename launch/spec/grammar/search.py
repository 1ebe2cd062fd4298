"""The `search:` part of a spec, read as strictly as the rest: all mistakes at once, each with its
place.

The grammar is described in `experiments/README.md`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from launch.spec.grammar.fields import read_fields
from launch.spec.grammar.resolver import Resolver
from launch.spec.grammar.settings import Setting, SettingsLayer
from launch.spec.grammar.yaml_source import YamlPath, YamlSource
from launch.spec.search import Asha, Dimension, Median, NoScheduler, Scheduler, Search
from rm.metrics import METRICS
from rm.registry import TRIAL_SECTIONS, suggestion

KINDS = ("uniform", "loguniform", "choice", "int")
SCHEDULERS: dict[str, type[Scheduler]] = {"asha": Asha, "median": Median, "none": NoScheduler}


@dataclass(frozen=True)
class _Keys:
    """The keys of `search:`; the scheduler's own are read apart."""

    space: dict[str, Any]
    held_out: Annotated[int, "held_out >= 1"]
    samples: Annotated[int, "samples >= 1"]
    seed: Annotated[int, "seed >= 0"] = 0
    metric: str = "top1_error"
    algorithm: Literal["random", "optuna"] = "random"
    scheduler: Any = None


Parts = Sequence[tuple[YamlPath, Mapping[str, Any]]]
"""The mappings that say what the search is, each with its place; a later one (a profile's)
replaces keys of an earlier one.
"""


def read_search(
    source: YamlSource, parts: Parts, base: SettingsLayer, resolver: Resolver
) -> Search | None:
    """Read the `search:` of a spec; None, with mistakes noted, where something in it is wrong."""
    places: dict[str, YamlPath] = {}
    data: dict[str, Any] = {}
    for at, part in parts:
        data |= part
        places |= {key: (*at, key) for key in part}
    start, before = parts[0][0], len(source.diagnostics)
    found = read_fields(source, start, data, _Keys, "a search", prefix="search.", places=places)
    if (metric := found.get("metric", "top1_error")) not in METRICS:
        message = f"search.metric: unknown metric '{metric}'{suggestion(metric, METRICS)}"
        source.error(places["metric"], message)
    for (section, option), setting in base.settings.items():
        if section == "init" and option != "none":
            source.error(setting.key, "a search does not start from other trials")
    at = places.get("scheduler", start)
    scheduler = _scheduler(source, at, data.get("scheduler", "asha"))
    space, at = data.get("space"), places.get("space", start)
    dimensions = _space(source, at, space) if isinstance(space, dict) else []
    values = _corners(source, at, dimensions, base, resolver)
    if scheduler is None or values is None or len(source.diagnostics) > before:
        return None
    keys = _Keys(**found)
    search = Search(
        tuple(dimensions), keys.metric, keys.samples, keys.seed, scheduler, keys.algorithm,
        keys.held_out, values,
    )  # fmt: skip
    _check_whole(source, places, search)
    return search if len(source.diagnostics) == before else None


def _scheduler(source: YamlSource, at: YamlPath, data: Any) -> Scheduler | None:
    """`scheduler: asha`, or a mapping with its options beside its name."""
    written = {"name": data} if isinstance(data, str) else data
    if not isinstance(written, dict) or written.get("name") not in SCHEDULERS:
        name = written.get("name") if isinstance(written, dict) else written
        place = (*at, "name") if isinstance(data, dict) else at
        source.error(place, f"unknown scheduler {name!r}{suggestion(str(name), SCHEDULERS)}")
        return None
    shape, what = SCHEDULERS[written["name"]], f"scheduler '{written['name']}'"
    before = len(source.diagnostics)
    found = read_fields(source, at, written, shape, what, prefix="search.scheduler.")
    return shape(**found) if len(source.diagnostics) == before else None


def _space(source: YamlSource, at: YamlPath, data: Mapping[str, Any]) -> list[Dimension]:
    """The dimensions whose form is right; what is wrong in the others is noted."""
    if not data:
        source.error(at, "the space of a search has at least one key, such as method.alpha")
    found = (_dimension(source, (*at, key), key, item) for key, item in data.items())
    return [dimension for dimension in found if dimension is not None]


def _dimension(source: YamlSource, at: YamlPath, key: str, item: Any) -> Dimension | None:
    section, _, option = key.partition(".")
    if section not in TRIAL_SECTIONS or not option:
        message = "a key of the space is dotted, such as method.alpha; found "
        source.error(at, f"{message}'{key}'{suggestion(section, TRIAL_SECTIONS)}", key=True)
    elif key == "dataset.held_out":
        source.error(at, "dataset.held_out is set by the search itself", key=True)
    elif not isinstance(item, dict) or len(item) != 1:
        kinds = ": ...}, ".join(KINDS)
        source.error(at, f"{key}: expected one of {{{kinds}: ...}}, found {item!r}")
    else:
        kind, bounds = next(iter(item.items()))
        if kind not in KINDS:
            source.error((*at, kind), f"unknown '{kind}'{suggestion(kind, KINDS)}", key=True)
        elif (wrong := _wrong_bounds(kind, bounds)) is not None:
            source.error((*at, kind), f"{key}: {kind} {wrong}, found {bounds!r}")
        else:
            return Dimension(key, kind, tuple(bounds))
    return None


def _wrong_bounds(kind: str, bounds: Any) -> str | None:
    """What is wrong with the bounds of a kind, or None."""
    if kind == "choice":
        fine = (
            isinstance(bounds, list)
            and bounds
            and all(bounds.count(value) == 1 for value in bounds)
        )
        return None if fine else "takes a list of different values"
    types = (int,) if kind == "int" else (int, float)
    fine = (
        isinstance(bounds, list)
        and len(bounds) == 2
        and all(type(value) in types for value in bounds)
    )
    if not fine or not all(math.isfinite(value) for value in bounds):
        return f"takes [low, high], two {'whole ' if kind == 'int' else ''}numbers"
    if bounds[0] >= bounds[1]:
        return "takes [low, high] with low < high"
    return "takes numbers above 0" if kind == "loguniform" and bounds[0] <= 0 else None


def _corners(
    source: YamlSource,
    at: YamlPath,
    dimensions: Sequence[Dimension],
    base: SettingsLayer,
    resolver: Resolver,
) -> dict[str, Any] | None:
    """The resolved values at the space's first corner; every bound and choice is checked as if it
    were written in a trial.
    """
    values = None
    most = max((len(dimension.bounds) for dimension in dimensions), default=0)
    for i in reversed(range(most)):
        corner = SettingsLayer({}, {})
        for dimension in dimensions:
            j = min(i, len(dimension.bounds) - 1)
            value = dimension.bounds[j]
            value = float(value) if dimension.kind in ("uniform", "loguniform") else value
            section, _, option = dimension.key.partition(".")
            place = (*at, dimension.key)
            bound = (*place, dimension.kind, j)
            key = source.position(place, key=True)
            corner.settings[section, option] = Setting(value, source.position(bound), key, bound)
        values = resolver.values(base.merge(corner).settings, ("trial",))
    return values


def _check_whole(source: YamlSource, places: Mapping[str, YamlPath], search: Search) -> None:
    """What only the parts together can get wrong."""
    if search.base["dataset"]["held_out"]:
        message = "the trial of a search has no dataset.held_out of its own: the search sets it "
        source.error(places["held_out"], f"{message}for its samples")
    grace = getattr(search.scheduler, "grace_epochs", 1)
    if grace > search.epochs:
        message = (
            f"grace_epochs must be at most the trial's epochs, {search.epochs}, found {grace}"
        )
        source.error((*places["scheduler"], "grace_epochs"), message)
    if search.algorithm == "random" and (found := len(search.drawn())) < search.samples:
        message = f"the space has no {search.samples} different points: {found} were found"
        source.error(places["samples"], message)
