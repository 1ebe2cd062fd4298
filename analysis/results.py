"""A spec joined with its records: cells with their estimates and verdicts, claims with their tests.

Every rendering (terminal, Markdown, LaTeX, CSV, page) shows a `Table` and computes nothing of its own.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.compare import ClaimResult, Estimate, Verdict, estimate, holm, shortfall, test_claim, verdict
from analysis.records import SELECTIONS
from launch.spec import Cell, Spec
from launch.trial import Trial

VERDICTS = ("reproduced", "consistent", "differs", "missing", "not comparable")
SELECTION_NAMES = {
    "best": "best epoch",
    "last": "last epoch",
    "median_last_10": "median of last 10",
    "measured": "measured",
}


@dataclass(frozen=True)
class SeedResult:
    """One trial of a cell. values holds best, last and median_last_10 of the spec's metric once it has finished.

    state is MLflow's status in lower case, or "missing" where there is no record.
    """

    seed: int
    trial_id: str
    state: str
    values: Mapping[str, float]
    run_dir: str | None
    link: str | None


@dataclass(frozen=True)
class CellResult:
    """One cell: what the paper prints, what our seeds say under each selection, and the verdict on the spec's own."""

    labels: tuple[str, ...]
    published: float | None
    select: str
    seeds: tuple[SeedResult, ...]
    estimates: Mapping[str, Estimate]
    verdict: Verdict

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
        """The estimate that stands beside ours: the last epoch's, or the best one's where ours is the last."""
        return None if self.select == "measured" else self.estimates.get(other_selection(self.select))

    @property
    def inflation(self) -> float | None:
        """How much selecting the best epoch on the test set flatters: mean of last minus mean of best."""
        if "best" not in self.estimates or "last" not in self.estimates:
            return None
        return self.estimates["last"].mean - self.estimates["best"].mean

    @property
    def finished(self) -> tuple[SeedResult, ...]:
        return tuple(seed for seed in self.seeds if self.select in seed.values)

    @property
    def missing_seeds(self) -> tuple[int, ...]:
        return tuple(seed.seed for seed in self.seeds if self.select not in seed.values)


@dataclass(frozen=True)
class ClaimTest:
    """One "left < right" of a claim, in one combination of the leading axes (context, empty with one axis)."""

    text: str
    context: str
    left: str
    right: str
    result: ClaimResult


@dataclass(frozen=True)
class Table:
    """Everything that a report says about one spec."""

    spec: Spec
    cells: tuple[CellResult, ...]
    claims: tuple[ClaimTest, ...]
    records: pd.DataFrame

    @property
    def slug(self) -> str:
        """The stem of every file written for it: table3, or table3-smoke for a profile."""
        return f"{self.spec.name}-{self.spec.profile}" if self.spec.profile else self.spec.name

    @property
    def is_grid(self) -> bool:
        return len(self.spec.axes) > 1

    @property
    def rows(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(cell.row for cell in self.cells))

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(cell.column for cell in self.cells))

    def in_row(self, row: str) -> tuple[CellResult, ...]:
        return tuple(cell for cell in self.cells if cell.row == row)

    @property
    def has_published(self) -> bool:
        """Without a single published number there is nothing to compare, and no rendering has columns for it."""
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
        whole = cell.verdict.word == "not comparable" and (self.spec.profile is not None or not self.has_published)
        return shortfall(len(cell.finished), cell.missing_seeds) if whole else cell.verdict.reason

    @property
    def states(self) -> Counter[str]:
        """How many trials are in which state; a trial that stands in two cells counts once."""
        return Counter({seed.trial_id: seed.state for cell in self.cells for seed in cell.seeds}.values())

    @property
    def verdicts(self) -> Counter[str]:
        return Counter(cell.verdict.word for cell in self.cells)


def collect(spec: Spec, records: pd.DataFrame) -> Table:
    """Join a spec with its records (as `records.load_records` returns them; rows of other specs do no harm)."""
    found = {str(row["trial_id"]): row for row in records.to_dict("records")}
    cells = tuple(_cell(spec, cell, found) for cell in spec.cells)
    ours = {seed.trial_id for cell in cells for seed in cell.seeds}
    mine = records[records["trial_id"].isin(ours)].reset_index(drop=True)
    return Table(spec, cells, _claims(spec, cells), mine)


def other_selection(select: str) -> str:
    """Which selection stands beside the spec's own."""
    return "best" if select == "last" else "last"


def _cell(spec: Spec, cell: Cell, found: Mapping[str, Mapping[Any, Any]]) -> CellResult:
    seeds = tuple(_seed(trial, found.get(trial.id), spec.metric.name) for trial in cell.trials)
    estimates = {}
    for selection in (*SELECTIONS, "measured"):
        estimated = estimate([seed.values[selection] for seed in seeds if selection in seed.values])
        if estimated is not None:
            estimates[selection] = estimated
    select = spec.metric.select
    values = {seed.seed: seed.values[select] for seed in seeds if select in seed.values}
    missing = [seed.seed for seed in seeds if seed.seed not in values]
    word = verdict(list(values.values()), cell.published, spec.margin, comparable=spec.profile is None, missing=missing)
    return CellResult(tuple(cell.labels), cell.published, select, seeds, estimates, word)


def _seed(trial: Trial, record: Mapping[Any, Any] | None, metric: str) -> SeedResult:
    if record is None:
        return SeedResult(trial.seed, trial.id, "missing", {}, None, None)
    state = str(record["status"]).lower()
    values = {}
    if state == "finished":  # an unfinished run has no result, whatever it has logged so far
        finals = {selection: record.get(f"{selection}_{metric}") for selection in (*SELECTIONS, "measured")}
        values = {selection: float(value) for selection, value in finals.items() if value is not None}
        values = {selection: value for selection, value in values.items() if math.isfinite(value)}
    run_dir, link = (record[key] if isinstance(record[key], str) else None for key in ("run_dir", "link"))
    return SeedResult(trial.seed, trial.id, state, values, run_dir, link)


def _claims(spec: Spec, cells: tuple[CellResult, ...]) -> tuple[ClaimTest, ...]:
    by_labels = {cell.labels: cell for cell in cells}
    contexts = dict.fromkeys(cell.labels[:-1] for cell in cells)
    places = []
    results = []
    for claim in spec.claims:
        for context in contexts:
            for left, right in zip(claim.chain, claim.chain[1:], strict=False):
                places.append((claim.text, " · ".join(context), left, right))
                sides = [_by_seed(by_labels.get((*context, label))) for label in (left, right)]
                results.append(test_claim(*sides))
    corrected = holm(results)
    return tuple(ClaimTest(*place, result) for place, result in zip(places, corrected, strict=True))


def _by_seed(cell: CellResult | None) -> dict[int, float]:
    return {seed.seed: seed.values[cell.select] for seed in cell.finished} if cell else {}
