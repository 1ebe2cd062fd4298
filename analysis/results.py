"""A spec joined with its records: cells with their estimates and verdicts, claims with their
tests.

Every rendering (terminal, Markdown, LaTeX, CSV, page) shows a `Table` and computes nothing of its
own.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import pandas as pd

from analysis.claims import ClaimResult, holm, test_claim, test_range
from analysis.compare import Estimate, Verdict, estimate, inflation, shortfall, verdict
from analysis.records.load import SELECTIONS
from analysis.records.official import OfficialRun
from launch.spec.load import Cell, Spec
from launch.spec.trial import Trial

VERDICTS = ("reproduced", "consistent", "differs", "missing", "not comparable")
SELECTION_NAMES = {
    "best": "best epoch",
    "last": "last epoch",
    "median_last_10": "median of last 10",
    "measured": "measured",
}


@dataclass(frozen=True)
class SeedResult:
    """One trial of a cell. values holds best, last and median_last_10 of the spec's metric once it
    has finished.

    state is MLflow's status in lower case, or "missing" where there is no record.
    """

    seed: int
    trial_id: str
    state: str
    values: Mapping[str, float]
    run_dir: str | None
    link: str | None
    run_id: str | None = None
    experiment_id: str | None = None
    origin: str | None = None
    host: str | None = None
    device: str | None = None


@dataclass(frozen=True)
class CellResult:
    """One cell: what the paper prints, what our seeds say under each selection, and the verdict on
    the spec's own.

    official holds the authors' released logs of this cell, and authors what they say under each
    selection.
    """

    labels: tuple[str, ...]
    published: float | None
    select: str
    seeds: tuple[SeedResult, ...]
    estimates: Mapping[str, Estimate]
    verdict: Verdict
    official: tuple[OfficialRun, ...] = ()
    authors: Mapping[str, Estimate] = field(default_factory=dict)

    @property
    def row(self) -> str:
        """All labels but the last where there are several, else the only one."""
        return " · ".join(self.labels[:-1]) if len(self.labels) > 1 else self.labels[0]

    @property
    def column(self) -> str:
        """The last axis' label; empty in a table with one axis."""
        return self.labels[-1] if len(self.labels) > 1 else ""

    @property
    def ours(self) -> Estimate | None:
        return self.estimates.get(self.select)

    @property
    def other(self) -> Estimate | None:
        """The estimate that stands beside ours: the last epoch's, or the best one's where ours is
        the last.
        """
        return (
            None if self.select == "measured" else self.estimates.get(other_selection(self.select))
        )

    @cached_property
    def inflation(self) -> Estimate | None:
        """How much selecting the best epoch on the test set flatters: last minus best, over the
        seeds.
        """
        sides = [
            {seed.seed: seed.values[name] for seed in self.seeds if name in seed.values}
            for name in ("best", "last")
        ]
        return inflation(*sides)

    @property
    def finished(self) -> tuple[SeedResult, ...]:
        return tuple(seed for seed in self.seeds if self.select in seed.values)

    @property
    def missing_seeds(self) -> tuple[int, ...]:
        return tuple(seed.seed for seed in self.seeds if self.select not in seed.values)


@dataclass(frozen=True)
class ClaimTest:
    """One "left < right" of a claim, in one combination of the leading axes (context, empty with
    one axis).

    Of a claim "A, B, C within w" left is the list of labels, right is empty and within is w.
    """

    text: str
    context: str
    left: str
    right: str
    result: ClaimResult
    within: float | None = None

    @property
    def name(self) -> str:
        """The claim as it is tested here: "A < B" or "A, B, C within 0.3"."""
        return (
            f"{self.left} < {self.right}"
            if self.within is None
            else f"{self.left} within {self.within:g}"
        )


@dataclass(frozen=True)
class Table:
    """Everything that a report says about one spec, or about a further metric of one
    (`further`).
    """

    spec: Spec
    cells: tuple[CellResult, ...]
    claims: tuple[ClaimTest, ...]
    records: pd.DataFrame
    further: bool = False

    @property
    def slug(self) -> str:
        """The stem of every file written for it: table3, table3-smoke for a profile,
        table5-top5_error for a further metric.
        """
        parts = (
            self.spec.name,
            self.spec.profile,
            self.spec.metric.name if self.further else None,
        )
        return "-".join(part for part in parts if part)

    @property
    def is_grid(self) -> bool:
        return len(self.spec.axes) > 1

    @cached_property
    def rows(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(cell.row for cell in self.cells))

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(cell.column for cell in self.cells))

    def in_row(self, row: str) -> tuple[CellResult, ...]:
        return tuple(cell for cell in self.cells if cell.row == row)

    @property
    def has_published(self) -> bool:
        """Without a single published number there is nothing to compare, and no rendering has
        columns for it.
        """
        return any(cell.published is not None for cell in self.cells)

    @property
    def banner(self) -> str:
        """What a reduced profile must say of itself everywhere; empty for the real thing."""
        if not self.spec.profile:
            return ""
        what = f"Reduced profile “{self.spec.profile}”: a smaller copy of this table."
        return f"{what} Its numbers are not comparable with the paper's."

    def note(self, cell: CellResult) -> str:
        """The verdict's reason, unless it is the whole table's, with the missing seeds named."""
        whole = cell.verdict.word == "not comparable" and (
            self.spec.profile is not None or not self.has_published
        )
        return shortfall(len(cell.finished), cell.missing_seeds) if whole else cell.verdict.reason

    @property
    def inflation(self) -> Estimate | None:
        """What selecting the best epoch takes off the error, over all seeds of all cells that have
        both numbers.
        """
        values = [
            seed.values["last"] - seed.values["best"]
            for cell in self.cells for seed in cell.seeds if {"best", "last"} <= seed.values.keys()
        ]  # fmt: skip
        return estimate(values)

    @property
    def states(self) -> Counter[str]:
        """How many trials are in which state; a trial that stands in two cells counts once."""
        return Counter(
            {seed.trial_id: seed.state for cell in self.cells for seed in cell.seeds}.values()
        )

    @property
    def verdicts(self) -> Counter[str]:
        return Counter(cell.verdict.word for cell in self.cells)


Official = Mapping[str, Sequence[OfficialRun]]
"""The authors' logs by the first trial of the cell that they speak for, as `official.by_trial`
finds them.
"""


def collect(
    spec: Spec, records: pd.DataFrame, official: Official | None = None, *, further: bool = False
) -> Table:
    """Join a spec with its records (as `records.load_records` returns them; rows of other specs do
    no harm).
    """
    mine = records[records["trial_id"].isin({trial.id for trial in spec.trials})].reset_index(
        drop=True
    )
    found = {str(row["trial_id"]): row for row in mine.to_dict("records")}
    cells = tuple(
        _cell(spec, cell, found, (official or {}).get(cell.trials[0].id, ()))
        for cell in spec.cells
    )
    return Table(spec, cells, _claims(spec, cells), mine, further)


def collect_views(
    spec: Spec, records: pd.DataFrame, official: Official | None = None
) -> list[Table]:
    """A table for each metric of a spec, the first one first."""
    return [collect(view, records, official, further=view is not spec) for view in spec.views]


def other_selection(select: str) -> str:
    """Which selection stands beside the spec's own."""
    return "best" if select == "last" else "last"


def _cell(
    spec: Spec, cell: Cell, found: Mapping[str, Mapping[Any, Any]], official: Sequence[OfficialRun]
) -> CellResult:
    seeds = tuple(_seed(trial, found.get(trial.id), spec.metric.name) for trial in cell.trials)
    estimates = {}
    for selection in (*SELECTIONS, "measured"):
        estimated = estimate(
            [seed.values[selection] for seed in seeds if selection in seed.values]
        )
        if estimated is not None:
            estimates[selection] = estimated
    select = spec.metric.select
    values = {seed.seed: seed.values[select] for seed in seeds if select in seed.values}
    missing = [seed.seed for seed in seeds if seed.seed not in values]
    word = verdict(
        list(values.values()),
        cell.published,
        spec.margin,
        comparable=spec.profile is None,
        missing=missing,
    )
    theirs = [run.finals(spec.metric.name) for run in official]
    judged = {name: estimate([finals[name] for finals in theirs if finals]) for name in SELECTIONS}
    authors = {name: one for name, one in judged.items() if one is not None}
    return CellResult(
        tuple(cell.labels),
        cell.published,
        select,
        seeds,
        estimates,
        word,
        tuple(official),
        authors,
    )


def _seed(trial: Trial, record: Mapping[Any, Any] | None, metric: str) -> SeedResult:
    if record is None:
        return SeedResult(trial.seed, trial.id, "missing", {}, None, None)
    state = str(record["status"]).lower()
    values = {}
    if state == "finished":  # an unfinished run has no result, whatever it has logged so far
        finals = {
            selection: record.get(f"{selection}_{metric}")
            for selection in (*SELECTIONS, "measured")
        }
        values = {
            selection: float(value) for selection, value in finals.items() if value is not None
        }
        values = {selection: value for selection, value in values.items() if math.isfinite(value)}
    texts = ("run_dir", "link", "run_id", "experiment_id", "origin", "host", "device")
    known = (record[key] if isinstance(record.get(key), str) else None for key in texts)
    return SeedResult(trial.seed, trial.id, state, values, *known)


def _claims(spec: Spec, cells: tuple[CellResult, ...]) -> tuple[ClaimTest, ...]:
    by_labels = {cell.labels: cell for cell in cells}
    contexts = dict.fromkeys(cell.labels[:-1] for cell in cells)
    tests = []
    for claim in spec.claims:
        for context in contexts:
            if claim.of is not None and claim.of not in context:
                continue
            values = [_by_seed(by_labels.get((*context, label))) for label in claim.chain]
            where = " · ".join(context)
            if claim.within is not None:
                result = test_range(values, claim.within)
                tests.append(
                    ClaimTest(claim.text, where, ", ".join(claim.chain), "", result, claim.within)
                )
                continue
            for i, (left, right) in enumerate(pairwise(claim.chain)):
                tests.append(
                    ClaimTest(claim.text, where, left, right, test_claim(values[i], values[i + 1]))
                )
    corrected = holm([test.result for test in tests])
    return tuple(
        replace(test, result=result) for test, result in zip(tests, corrected, strict=True)
    )


def _by_seed(cell: CellResult | None) -> dict[int, float]:
    return {seed.seed: seed.values[cell.select] for seed in cell.finished} if cell else {}
