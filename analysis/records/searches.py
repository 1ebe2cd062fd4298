"""What records know of a search: its samples, and from them its winner, by the rule that the
launcher went by.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from analysis.records.load import load_samples
from launch.spec.load import Spec, with_winner
from launch.spec.search import Dimension, SampleResult, Search, State, winner

_STATES: Mapping[str, State] = {"FINISHED": "finished", "FAILED": "failed"}


def with_search_results(spec: Spec, tracking_uri: str | None = None) -> Spec:
    """A spec that searches with what its samples showed and, once all of them are decided, its
    winner's row.

    Any other spec as it is. Raises RecordsError for a store that cannot be read.
    """
    if spec.search is None:
        return spec
    results: dict[int, SampleResult] = {}
    name = f"{spec.name}.{spec.variant}" if spec.variant else spec.name
    for record in load_samples(name, tracking_uri):
        result = _sample_result(spec.search, record)
        if result is not None:
            results[result.sample.number] = result
    tried = tuple(results[number] for number in sorted(results))
    best = winner(tried, spec.search.samples, spec.search.objective)
    spec = replace(spec, search=replace(spec.search, tried=tried))
    return spec if best is None else with_winner(spec, best)


def sample_runs(spec: Spec) -> list[str]:
    """The records of a search's samples, whose curves its figure draws."""
    return [one.run_id for one in spec.search.tried if one.run_id] if spec.search else []


def _sample_result(search: Search, record: Mapping[str, Any]) -> SampleResult | None:
    """A record as a sample of this search; None where it is of an earlier state of the spec."""
    params, metrics = record["params"], record["metrics"]
    if any(dimension.key not in params for dimension in search.space):
        return None
    point = {dimension.key: _value(dimension, params[dimension.key]) for dimension in search.space}
    sample = search.sample(record["sample"], point)
    if sample.trial.id != record["trial_id"] or sample.number > search.samples:
        return None
    result = SampleResult(
        sample,
        "stopped" if "stopped" in record else _STATES.get(record["status"], "undecided"),
        value=search.value_of(metrics),
        loss=metrics.get("test_loss"),
        run_id=record["run_id"],
    )
    if result.state == "finished":
        return replace(result, epoch=search.epochs)
    return replace(result, epoch=record.get("stopped", 0))


def _value(dimension: Dimension, text: str) -> Any:
    """A parameter as MLflow keeps it, in its own type again."""
    if dimension.kind == "choice":
        return next(
            (value for value in dimension.bounds if text in (value, json.dumps(value))), text
        )
    return json.loads(text)
