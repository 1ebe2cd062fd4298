"""What records know of a search: its samples, and from them its winner, by the rule that the
launcher went by.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from launch.spec.load import Spec, with_winner
from launch.spec.search import Dimension, SampleResult, Search, State, winner

_ROW = re.compile(r"sample (?P<number>\d+): .*?(?:; stopped at epoch (?P<stopped>\d+) by \w+)?")
"""The last of a record's rows: one that was stopped has its row from before as well."""
_STATES: Mapping[str, State] = {"FINISHED": "finished", "FAILED": "failed"}


def settled(spec: Spec, tracking_uri: str | None = None) -> Spec:
    """A spec that searches with what its samples showed and, once all of them are decided, its
    winner's row.

    Any other spec as it is. Raises RecordsError for a store that cannot be read.
    """
    if spec.search is None:
        return spec
    from analysis.records.load import load_rows

    found: dict[int, SampleResult] = {}
    tag = f"spec.{spec.name}.{spec.profile}" if spec.profile else f"spec.{spec.name}"
    for record in load_rows(tag, "sample ", tracking_uri):
        one = _tried(spec.search, record)
        if one is not None:
            found[one.sample.number] = one
    tried = tuple(found[number] for number in sorted(found))
    best = winner(tried, spec.search.samples, spec.search.objective)
    spec = replace(spec, search=replace(spec.search, tried=tried))
    return spec if best is None else with_winner(spec, best)


def sample_runs(spec: Spec) -> list[str]:
    """The records of a search's samples, whose curves its figure draws."""
    return [one.run_id for one in spec.search.tried if one.run_id] if spec.search else []


def _tried(search: Search, record: Mapping[str, Any]) -> SampleResult | None:
    """A record as a sample of this search; None where it is of an earlier state of the spec."""
    row = _ROW.fullmatch(record["rows"][-1])
    params = record["params"]
    if row is None or any(dimension.key not in params for dimension in search.space):
        return None
    point = {dimension.key: _value(dimension, params[dimension.key]) for dimension in search.space}
    sample = search.sample(int(row["number"]), point)
    if sample.trial.id != record["trial_id"] or sample.number > search.samples:
        return None
    metrics = record["metrics"]
    value, loss = metrics.get(f"test_{search.metric}"), metrics.get("test_loss")
    if row["stopped"]:
        return SampleResult(sample, "stopped", int(row["stopped"]), value, loss, record["run_id"])
    state = _STATES.get(record["status"], "undecided")
    return SampleResult(
        sample, state, search.epochs if state == "finished" else 0, value, loss, record["run_id"]
    )


def _value(dimension: Dimension, text: str) -> Any:
    """A parameter as MLflow keeps it, in its own type again."""
    if dimension.kind == "choice":
        return next(
            (value for value in dimension.bounds if text in (value, json.dumps(value))), text
        )
    return json.loads(text)
