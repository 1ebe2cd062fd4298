"""`resources` in a spec: at its top, in a row, in a labelled group of settings, or in a
profile.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from launch.runs.resources import ONE, Resources, misfit
from launch.spec.trial import Trial
from launch.spec.yaml_source import Document, Place, Problem
from rm.registry import suggestion


class Placed(NamedTuple):
    """Resources, and where they stand: the place to blame where a trial cannot be shared by so
    many processes.
    """

    resources: Resources
    at: Place


NONE_WRITTEN = Placed(ONE, ())


def read_resources(
    document: Document, at: Place, data: Mapping[str, Any], problems: list[Problem]
) -> Placed | None:
    """`resources: {nodes: 1, gpus: 8}` of the mapping at `at`, where it has any."""
    written, place = data.get("resources"), (*at, "resources")
    if written is None:
        return None
    if not isinstance(written, Mapping):
        message = f"resources must be a mapping such as {{nodes: 1, gpus: 8}}, found {written!r}"
        problems.append(Problem(document.mark(place), message))
        return None
    found = len(problems)
    for key, value in written.items():
        if key not in Resources._fields:
            message = f"resources has no '{key}'{suggestion(str(key), Resources._fields)}"
            problems.append(Problem(document.mark((*place, key), key=True), message))
        elif type(value) is not int or value < 1:
            message = f"resources.{key} must be a whole number >= 1, found {value!r}"
            problems.append(Problem(document.mark((*place, key)), message))
    return Placed(Resources(**written), place) if len(problems) == found else None


def refuse_misfits(
    document: Document,
    asked: Sequence[tuple[Placed, Trial]],
    searches: bool,
    problems: list[Problem],
) -> None:
    """A problem at each `resources` for what its trials cannot be trained on, each said once."""
    said = set()
    for placed, trial in asked:
        why = misfit(trial.values, placed.resources)
        if searches and placed.resources != ONE:
            why = "a spec that searches trains each trial on one GPU"
        if why is not None and (placed.at, why) not in said:
            said.add((placed.at, why))
            problems.append(Problem(document.mark(placed.at, key=True), why))
