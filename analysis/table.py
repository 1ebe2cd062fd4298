"""What a report says of a spec: cells with their estimates and verdicts, claims with their tests.

`collect.py` makes a `Table` of a spec and its records. Every rendering (terminal, Markdown, LaTeX,
CSV, page) shows a `Table` and computes nothing of its own.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import pandas as pd

from analysis.claims import ClaimResult
from analysis.compare import (
    INSIDE,
    OUTSIDE,
    Estimate,
    Verdict,
    estimate,
    join,
    selection_optimism,
    shortfall,
)
from analysis.records.official import OfficialRun
from analysis.records.recorded import MEASURED
from launch.spec.load import Spec
from launch.spec.spec import file_stem
from rm.metrics import Metric

VERDICTS = (
    "reproduced",
    "consistent",
    "differs",
    INSIDE,
    OUTSIDE,
    "missing",
    "not comparable",
)
SELECTION_NAMES = {
    "best": "best epoch",
    "last": "last epoch",
    "median_last_10": "median of last 10",
    MEASURED: "measured",
}

Official = Mapping[str, Sequence[OfficialRun]]
"""The authors' logs by the first trial of the cell that they speak for, as `official.by_trial`
finds them.
"""


@dataclass(frozen=True)
class SeedResult:
    """One trial of a cell. values holds the spec's metric under each selection, once the trial has
    finished: best, last, median_last_10, or measured.

    state      MLflow's status in lower case, or "missing" where there is no record
    numerics   of the record, where they are not those of today
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
    numerics: int | None = None


@dataclass(frozen=True)
class CellResult:
    """One cell: what the paper prints, what our seeds say under each selection, and the verdict on
    the spec's own.

    official   the authors' released logs of this cell
    authors    what these say under each selection
    sources    what its trials start from: "trial 0123456789ab", "weights resnet50.pth"
    """

    labels: tuple[str, ...]
    published: float | None
    select: str
    seeds: tuple[SeedResult, ...]
    estimates: Mapping[str, Estimate]
    verdict: Verdict
    metric: Metric
    official: tuple[OfficialRun, ...] = ()
    authors: Mapping[str, Estimate] = field(default_factory=dict)
    sources: tuple[str, ...] = ()

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
    def companion(self) -> Estimate | None:
        """The estimate under the companion selection."""
        return self.estimates.get(companion_selection(self.select))

    @cached_property
    def selection_optimism(self) -> Estimate | None:
        """By how much the best epoch on the test set is better than the last one, over the
        seeds.
        """
        best, last = (
            {seed.seed: seed.values[name] for seed in self.seeds if name in seed.values}
            for name in ("best", "last")
        )
        return selection_optimism(self.metric, best, last)

    @property
    def finished(self) -> tuple[SeedResult, ...]:
        return tuple(seed for seed in self.seeds if self.select in seed.values)

    @property
    def missing_seeds(self) -> tuple[int, ...]:
        return tuple(seed.seed for seed in self.seeds if self.select not in seed.values)


@dataclass(frozen=True)
class ClaimTest:
    """One "left < right" of a claim, in one combination of the leading axes (context, empty with
    one axis), or pooled over all of them.

    Of a claim "A, B, C within w" left is the list of labels, right is empty and within is w.
    """

    text: str
    context: str
    left: str
    right: str
    result: ClaimResult
    within: float | None = None
    sign: str = "<"
    by: float = 0.0
    pooled: bool = False

    @property
    def name(self) -> str:
        """The claim as it is tested here: "A < B", "A > B by 0.5" or "A, B, C within 0.3"."""
        if self.within is not None:
            return f"{self.left} within {self.within:g}"
        return f"{self.left} {self.sign} {self.right}" + (f" by {self.by:g}" if self.by else "")


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
        table3-train.epochs=5 with --set, table5-top5_error for a further metric.
        """
        metric = self.spec.metric.name if self.further else None
        return file_stem(self.spec.name, self.spec.variant, metric)

    @cached_property
    def metric(self) -> Metric:
        return self.spec.metric.metric

    @property
    def is_measured(self) -> bool:
        """Numbers that a probe measured have no epochs to select from."""
        return self.spec.metric.is_measured

    @property
    def is_grid(self) -> bool:
        return len(self.spec.axes) > 1

    @cached_property
    def rows(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(cell.row for cell in self.cells))

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(cell.column for cell in self.cells))

    @property
    def places(self) -> pd.DataFrame:
        """Where in the table each trial stands: columns row (of a grid, else ""), cell, seed,
        trial_id.
        """
        places = [
            (cell.row * self.is_grid, cell.labels[-1], seed.seed, seed.trial_id)
            for cell in self.cells
            for seed in cell.seeds
        ]
        return pd.DataFrame(places, columns=["row", "cell", "seed", "trial_id"])

    @cached_property
    def groups(self) -> tuple[tuple[CellResult, ...], ...]:
        """The cells that stand beside each other: those of each row of a grid, else all."""
        if not self.is_grid:
            return (self.cells,)
        rows: dict[str, list[CellResult]] = {}
        for cell in self.cells:
            rows.setdefault(cell.row, []).append(cell)
        return tuple(map(tuple, rows.values()))

    @cached_property
    def has_published(self) -> bool:
        """Without a single published number there is nothing to compare, and no rendering has
        columns for it.
        """
        return any(cell.published is not None for cell in self.cells)

    @property
    def has_power(self) -> bool:
        """Whether the paper's own differences say how likely any of the claims would hold."""
        return any(claim.result.power is not None for claim in self.claims)

    @property
    def banner(self) -> str:
        """What a changed copy must say of itself everywhere; empty for the real thing."""
        if not self.spec.variant:
            return ""
        what = f"Reduced profile “{self.spec.profile}”: a smaller copy of this table."
        if self.spec.overrides:
            profile = f", profile “{self.spec.profile}”" if self.spec.profile else ""
            what = f"Changed by --set {', '.join(self.spec.overrides)}{profile}: not this table."
        return f"{what} Its numbers are not comparable with the paper's."

    def note(self, cell: CellResult) -> str:
        """What a cell's word does not say: the verdict's reason, unless it is the whole table's,
        seeds that have finished without the number that counts, and records of former numerics.
        """
        is_common = cell.verdict.word == "not comparable" and (
            self.spec.variant is not None or not self.has_published
        )
        missing = shortfall(len(cell.finished), cell.missing_seeds)
        return join(missing if is_common else cell.verdict.reason, _absence(cell), _former(cell))

    @property
    def selection_optimism(self) -> Estimate | None:
        """By how much the best epoch is better than the last one, over all seeds of all cells
        that have both numbers.
        """
        return estimate(
            [
                self.metric.gain(seed.values["best"], seed.values["last"])
                for cell in self.cells
                for seed in cell.seeds
                if {"best", "last"} <= seed.values.keys()
            ]
        )

    @property
    def states(self) -> Counter[str]:
        """How many trials are in which state; a trial that stands in two cells counts once."""
        return Counter(
            {seed.trial_id: seed.state for cell in self.cells for seed in cell.seeds}.values()
        )

    @property
    def verdicts(self) -> Counter[str]:
        return Counter(cell.verdict.word for cell in self.cells)


def companion_selection(select: str) -> str:
    """Which selection stands beside the spec's own: the last epoch, or the best one beside
    that.
    """
    return "best" if select == "last" else "last"


def _absence(cell: CellResult) -> str:
    """Why a seed that has finished has no value under the cell's own selection."""
    without = [
        str(seed.seed)
        for seed in cell.seeds
        if seed.state == "finished" and cell.select not in seed.values
    ]
    if not without:
        return ""
    seeds = f"seed{'s' if len(without) > 1 else ''} {', '.join(without)}"
    if cell.select == "median_last_10":
        why = "fewer than ten evaluated epochs in the last tenth of training"
        return f"no median for {seeds}: {why}"
    return f"the records of {seeds} have no {SELECTION_NAMES[cell.select]} of this metric"


def _former(cell: CellResult) -> str:
    """Which of a cell's values come from records of former numerics."""
    numerics = sorted({seed.numerics for seed in cell.finished if seed.numerics is not None})
    if not numerics:
        return ""
    n = sum(seed.numerics is not None for seed in cell.finished)
    versions = ", ".join(map(str, numerics))
    return f"{n} of {len(cell.finished)} values are of former numerics ({versions})"
