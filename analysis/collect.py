"""Joins a spec with its records: the one place where a `Table` is made."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, Literal

import pandas as pd

from analysis.claims import ClaimResult, holm, order_test, pooled_test, range_test, with_power
from analysis.compare import ROUNDING, Estimate, Verdict, estimate, verdict
from analysis.records.official import OfficialRun
from analysis.records.recorded import MEASURED, values_of
from analysis.table import CellResult, ClaimTest, Official, SeedResult, Table
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
    logs = official or {}
    cells = tuple(
        _cell(spec, cell, rows, logs.get(cell.trials[0].id, ()) if cell.trials else ())
        for cell in spec.cells
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
        comparable=spec.variant is None,
        missing=[seed.seed for seed in seeds if seed.seed not in values],
    )
    if not cell.trials:
        judged = Verdict("not comparable", reason=f"nothing is trained, quoted: {cell.quoted}")
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
    """Every comparison of every claim, and behind them, pooled over the contexts, those that are
    claimed for several; each of both is a family for Holm's correction.
    """
    by_labels = {cell.labels: cell for cell in cells}
    tests = _comparisons(spec, by_labels)
    gains = [_published_gain(test, by_labels) for test in tests]
    together: dict[tuple[str, str, str], list[int]] = {}
    for i, test in enumerate(tests):
        if test.within is None:
            together.setdefault((test.text, test.left, test.right), []).append(i)
    groups = [group for group in together.values() if len(group) > 1]
    pooled = [_pooled([tests[i] for i in group]) for group in groups]
    pooled_gains = [_mean([gains[i] for i in group]) for group in groups]
    most = max(map(len, groups), default=1)
    return (*_family(tests, gains), *_family(pooled, pooled_gains, most))


def _family(
    tests: Sequence[ClaimTest], gains: Sequence[float | None], pooled: int = 1
) -> tuple[ClaimTest, ...]:
    """Tests that are corrected together, with their power; for `gains` and `pooled` see
    `with_power`. Where the paper's own numbers are on the other side, the reason says so.
    """
    results = with_power(holm([test.result for test in tests]), gains, pooled)
    return tuple(
        replace(test, result=_contradicted(one, gain))
        for test, one, gain in zip(tests, results, gains, strict=True)
    )


def _contradicted(result: ClaimResult, gain: float | None) -> ClaimResult:
    if gain is None or gain > -ROUNDING:
        return result
    why = f"the paper's own numbers contradict it, by {-gain:.2f}"
    return replace(result, reason=f"{result.reason}; {why}" if result.reason else why)


def _pooled(tests: Sequence[ClaimTest]) -> ClaimTest:
    first = tests[0]
    sign: Literal["<", ">"] = ">" if first.sign == ">" else "<"
    result = pooled_test([test.result for test in tests], sign, first.by)
    return replace(first, context=f"pooled over {len(tests)}", result=result, pooled=True)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _published_gain(
    test: ClaimTest, by_labels: Mapping[tuple[str, ...], CellResult]
) -> float | None:
    """By how much the paper's own numbers are on the claim's side."""
    if test.within is not None:
        return None
    context = tuple(test.context.split(" · ")) if test.context else ()
    sides = [by_labels.get((*context, label)) for label in (test.left, test.right)]
    left, right = (None if side is None else side.published for side in sides)
    if left is None or right is None:
        return None
    return (right - left if test.sign == "<" else left - right) - test.by


def _comparisons(spec: Spec, by_labels: Mapping[tuple[str, ...], CellResult]) -> list[ClaimTest]:
    tests: list[ClaimTest] = []
    for claim in spec.claims:
        for context in dict.fromkeys(labels[:-1] for labels in by_labels):
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
    return tests


def _by_seed(cell: CellResult | None) -> dict[int, float]:
    return {seed.seed: seed.values[cell.select] for seed in cell.finished} if cell else {}
