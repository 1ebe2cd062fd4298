"""The `search:` part of a spec, read as strictly as the rest: all mistakes at once, each with its
place.

The grammar is described in `experiments/README.md`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from launch.spec.search import Asha, Dimension, Median, NoScheduler, Scheduler, Search, Strict
from launch.spec.settings import Resolver, Setting, Written, merge, reason
from launch.spec.yaml_source import Document, Place, Problem
from rm.registry import TRIAL_SECTIONS as SECTIONS
from rm.registry import suggestion

KINDS = ("uniform", "loguniform", "choice", "int")
SCHEDULERS: dict[str, type[Scheduler]] = {"asha": Asha, "median": Median, "none": NoScheduler}


class _Keys(Strict):
    """The keys of `search:`; the scheduler's own are read apart."""

    space: dict[str, dict[str, Any]]
    held_out: Annotated[int, Field(ge=1)]
    samples: Annotated[int, Field(ge=1)]
    seed: Annotated[int, Field(ge=0)] = 0
    metric: Literal["top1_error", "top5_error", "loss"] = "top1_error"
    algorithm: Literal["random", "optuna"] = "random"
    scheduler: Any = None


Parts = Sequence[tuple[Place, Mapping[str, Any]]]
"""The mappings that say what the search is, each with its place; a later one (a profile's)
replaces keys of an earlier one.
"""


def read_search(
    document: Document, parts: Parts, base: Written, resolver: Resolver
) -> Search | None:
    """Read the `search:` of a spec; None, with problems kept, where something in it is wrong."""
    problems, places = resolver.problems, dict[str, Place]()
    data: dict[str, Any] = {}
    for at, part in parts:
        data |= part
        places |= {key: (*at, key) for key in part}
    start, before = parts[0][0], len(problems)
    keys = _keys(document, start, places, data, problems)
    scheduler = _scheduler(
        document, places.get("scheduler", start), data.get("scheduler", "asha"), problems
    )
    space, at = data.get("space"), places.get("space", start)
    dimensions = _space(document, at, space, problems) if isinstance(space, dict) else []
    values = _corners(document, at, dimensions, base, resolver)
    if keys is None or scheduler is None or values is None or len(problems) > before:
        return None
    search = Search(
        tuple(dimensions),
        keys.metric,
        keys.samples,
        keys.seed,
        scheduler,
        keys.algorithm,
        keys.held_out,
        values,
    )
    _check_whole(document, places, search, problems)
    return search if len(problems) == before else None


def _keys(
    document: Document,
    start: Place,
    places: Mapping[str, Place],
    data: Mapping[str, Any],
    problems: list[Problem],
) -> _Keys | None:
    try:
        return _Keys.model_validate(data)
    except ValidationError as error:
        for detail in error.errors():
            key, *rest = (str(part) for part in detail["loc"])
            at, name = (*places.get(key, start), *rest), ".".join(("search", key, *rest))
            if detail["type"] == "missing":
                problems.append(Problem(document.mark(start, key=True), f"a search needs '{key}'"))
            elif detail["type"] == "extra_forbidden":
                message = f"a search has no '{key}'{suggestion(key, _Keys.model_fields)}"
                problems.append(Problem(document.mark(at, key=True), message))
            else:
                problems.append(
                    Problem(
                        document.mark(at), f"{name}: {reason(detail)}, found {detail['input']!r}"
                    )
                )
        return None


def _scheduler(
    document: Document, at: Place, data: Any, problems: list[Problem]
) -> Scheduler | None:
    """`scheduler: asha`, or a mapping with its options beside its name."""
    given = {"name": data} if isinstance(data, str) else data
    if not isinstance(given, dict) or given.get("name") not in SCHEDULERS:
        found = given.get("name") if isinstance(given, dict) else given
        message = f"unknown scheduler {found!r}{suggestion(str(found), SCHEDULERS)}"
        place = (*at, "name") if isinstance(data, dict) else at
        problems.append(Problem(document.mark(place), message))
        return None
    model = SCHEDULERS[given["name"]]
    try:
        return model.model_validate(given)
    except ValidationError as error:
        for detail in error.errors():
            option = str(detail["loc"][0])
            if detail["type"] == "extra_forbidden":
                valid = [name for name in model.model_fields if name != "name"]
                message = f"scheduler '{given['name']}' has no option '{option}'{suggestion(option, valid)}"
                problems.append(Problem(document.mark((*at, option), key=True), message))
            else:
                message = f"search.scheduler.{option}: {reason(detail)}, found {detail['input']!r}"
                problems.append(Problem(document.mark((*at, option)), message))
        return None


def _space(
    document: Document, at: Place, data: Mapping[str, Any], problems: list[Problem]
) -> list[Dimension]:
    """The dimensions whose form is right; what is wrong in the others is a problem each."""
    dimensions = []
    if not data:
        problems.append(
            Problem(
                document.mark(at),
                "the space of a search has at least one key, such as method.alpha",
            )
        )
    for key, item in data.items():
        place = (*at, key)
        section, _, option = key.partition(".")
        if section not in SECTIONS or not option:
            message = (
                "a key of the space is dotted, such as method.alpha; found "
                f"'{key}'{suggestion(section, SECTIONS)}"
            )
            problems.append(Problem(document.mark(place, key=True), message))
        elif key == "dataset.held_out":
            problems.append(
                Problem(
                    document.mark(place, key=True), "dataset.held_out is set by the search itself"
                )
            )
        elif not isinstance(item, dict) or len(item) != 1:
            message = f"{key}: expected one of {{{': ...}, {'.join(KINDS)}: ...}}, found {item!r}"
            problems.append(Problem(document.mark(place), message))
        else:
            kind, bounds = next(iter(item.items()))
            if kind not in KINDS:
                problems.append(
                    Problem(
                        document.mark((*place, kind), key=True),
                        f"unknown '{kind}'{suggestion(kind, KINDS)}",
                    )
                )
            elif (wrong := _wrong_bounds(kind, bounds)) is not None:
                problems.append(
                    Problem(
                        document.mark((*place, kind)), f"{key}: {kind} {wrong}, found {bounds!r}"
                    )
                )
            else:
                dimensions.append(Dimension(key, kind, tuple(bounds)))
    return dimensions


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
    document: Document,
    at: Place,
    dimensions: Sequence[Dimension],
    base: Written,
    resolver: Resolver,
) -> dict[str, Any] | None:
    """The resolved values at the space's first corner; every bound and choice is checked as if it
    were written in a trial.
    """
    values = None
    most = max((len(dimension.bounds) for dimension in dimensions), default=0)
    for i in reversed(range(most)):
        corner = Written({}, {})
        for dimension in dimensions:
            j = min(i, len(dimension.bounds) - 1)
            value = dimension.bounds[j]
            value = float(value) if dimension.kind in ("uniform", "loguniform") else value
            section, _, option = dimension.key.partition(".")
            place = (*at, dimension.key)
            here = document.mark((*place, dimension.kind, j))
            corner.settings[section, option] = Setting(value, here, document.mark(place, key=True))
        values = resolver.values(merge(base, corner).settings, ("trial",))
    return values


def _check_whole(
    document: Document, places: Mapping[str, Place], search: Search, problems: list[Problem]
) -> None:
    """What only the parts together can get wrong."""
    if search.base["dataset"]["held_out"]:
        message = (
            "the trial of a search has no dataset.held_out of its own: the search sets it "
            "for its samples"
        )
        problems.append(Problem(document.mark(places["held_out"]), message))
    grace = getattr(search.scheduler, "grace_epochs", 1)
    if grace > search.epochs:
        at = (*places["scheduler"], "grace_epochs")
        problems.append(
            Problem(
                document.mark(at),
                f"grace_epochs must be at most the trial's epochs, {search.epochs}, found {grace}",
            )
        )
    if search.algorithm == "random" and (found := len(search.drawn())) < search.samples:
        message = f"the space has no {search.samples} different points: {found} were found"
        problems.append(Problem(document.mark(places["samples"]), message))
