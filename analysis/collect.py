"""Joins a spec with its records: the one place where a `Table` is made."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pandas as pd

from analysis.claims import holm, order_test, range_test
from analysis.compare import Estimate, estimate, verdict
from analysis.records.official import OfficialRun
from analysis.records.recorded import MEASURED, values_of
from analysis.results import CellResult, ClaimTest, Official, SeedResult, Table
from launch.spec.load import Cell, Spec
from launch.spec.trial import Trial
from rm.metrics import SELECTIONS


def collect(
    spec: Spec, records: pd.DataFrame, official: Official | None = None, *, further: bool = False
) -> Table:
    """Join a spec with its records (as `records.load_records` returns them; rows of other specs do
    no harm).
    """
    ids = {trial.id for trial in spec.trials}
    own = records[records["trial_id"].isin(ids)].reset_index(drop=True)
    rows = {str(row["trial_id"]): row for row in own.to_dict("records")}
    cells = tuple(
        _cell(spec, cell, rows, (official or {}).get(cell.trials[0].id, ())) for cell in spec.cells
    )
    return Table(spec, cells, _claims(spec, cells), own, further)


def collect_views(
    spec: Spec, records: pd.DataFrame, official: Official | None = None
) -> list[Table]:
    """A table for each metric of a spec, the first one first."""
    return [collect(view, records, official, further=view is not spec) for view in spec.views]


def _cell(
    spec: Spec, cell: Cell, rows: Mapping[str, Mapping[Any, Any]], official: Sequence[OfficialRun]
) -> CellResult:
    select = spec.metric.select
    seeds = tuple(_seed(trial, rows.get(trial.id), spec.metric.name) for trial in cell.trials)
    values = {seed.seed: seed.values[select] for seed in seeds if select in seed.values}
    judged = verdict(
        list(values.values()),
        cell.published,
        spec.margin,
        comparable=spec.profile is None,
        missing=[seed.seed for seed in seeds if seed.seed not in values],
    )
    return CellResult(
        labels=tuple(cell.labels),
        published=cell.published,
        select=select,
        seeds=seeds,
        estimates=_estimates([seed.values for seed in seeds]),
        verdict=judged,
        metric=spec.metric.metric,
        official=tuple(official),
        authors=_estimates([run.finals(spec.metric.name) for run in official]),
        sources=tuple(dict.fromkeys(filter(None, map(source_of, cell.trials)))),
    )


def _estimates(values: Sequence[Mapping[str, float]]) -> dict[str, Estimate]:
    """An estimate for each selection that any of the runs has."""
    made = {
        name: estimate([one[name] for one in values if name in one])
        for name in (*SELECTIONS, MEASURED)
    }
    return {name: one for name, one in made.items() if one is not None}


def _seed(trial: Trial, record: Mapping[Any, Any] | None, metric: str) -> SeedResult:
    if record is None:
        return SeedResult(trial.seed, trial.id, "missing", {}, None, None)
    state = str(record["status"]).lower()
    # An unfinished run has no result, whatever it has logged so far.
    values = values_of(metric, record) if state == "finished" else {}
    texts = ("run_dir", "link", "run_id", "experiment_id", "origin", "host", "device")
    known = {key: record[key] if isinstance(record.get(key), str) else None for key in texts}
    numerics = record.get("numerics")
    former = None if numerics is None or pd.isna(numerics) else int(numerics)
    return SeedResult(trial.seed, trial.id, state, values, **known, numerics=former)


def source_of(trial: Trial) -> str | None:
    """What a trial starts from, for people; None where that is nothing but its seed."""
    init = trial.values.get("init")
    if not init:
        return None
    if "trial" in init:
        weights = "" if init.get("weights", "last") == "last" else f", {init['weights']} weights"
        return f"trial {init['trial']}{weights}"
    return f"weights {init.get('file') or init['sha256'][:12]}"


def _claims(spec: Spec, cells: tuple[CellResult, ...]) -> tuple[ClaimTest, ...]:
    by_labels = {cell.labels: cell for cell in cells}
    tests: list[ClaimTest] = []
    for claim in spec.claims:
        for context in dict.fromkeys(cell.labels[:-1] for cell in cells):
            if claim.of is not None and claim.of not in context:
                continue
            # The smallest stands first in the chain, in a claim with ">" the largest in its text.
            chain = claim.chain if claim.sign == "<" else claim.chain[::-1]
            values = [_by_seed(by_labels.get((*context, label))) for label in chain]
            place = " · ".join(context)
            if claim.within is not None:
                labels = ", ".join(claim.chain)
                result = range_test(values, claim.within)
                tests.append(ClaimTest(claim.text, place, labels, "", result, claim.within))
                continue
            for (left, right), pair in zip(pairwise(chain), pairwise(values), strict=True):
                result = order_test(*pair, claim.sign, claim.by)
                test = ClaimTest(claim.text, place, left, right, result)
                tests.append(replace(test, sign=claim.sign, by=claim.by))
    corrected = holm([test.result for test in tests])
    return tuple(
        replace(test, result=result) for test, result in zip(tests, corrected, strict=True)
    )


def _by_seed(cell: CellResult | None) -> dict[int, float]:
    return {seed.seed: seed.values[cell.select] for seed in cell.finished} if cell else {}
