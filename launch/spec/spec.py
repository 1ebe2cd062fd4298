"""A resolved spec: one table or figure of a paper, nothing in it left to be looked up."""

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Optional

from launch.spec.claims import Claim
from launch.spec.metric import TableMetric
from launch.spec.resources import ONE, Resources
from launch.spec.search import SampleResult, Search, describe
from launch.spec.trial import Trial

WINNER = "winner"
"""The row of what a search found."""
MOST_NAME = 200
"""Characters of a spec's name in a tag; MLflow takes 250 in all."""


MOST_STEM = 80
"""Characters of a variant in a file's name."""


@dataclass(frozen=True)
class Paper:
    """Which paper, by citation key, and which of its tables or figures."""

    key: str
    table: str


class Parent(NamedTuple):
    """A trial that others start from, and the cell that it is of.

    spec   None: the spec of the trial that starts from it, written there as a nested trial
    """

    spec: Optional["Spec"]
    cell: "Cell"
    trial: Trial


@dataclass(frozen=True)
class Cell:
    """One cell of the table: its label on each axis, what the paper prints, and a trial for each
    seed.

    also        what it prints of the metrics in `TableMetric.also`
    stopped     a sample that its search has stopped, which nothing resumes
    resources   what each of its trials is trained on
    sample      of a search's sample, its number as `sample` and, where the scheduler stopped it,
                the epoch as `stopped`; records know it by these
    parents     the trials that its trials start from, each once
    quoted      where the paper has its number from; without settings of its own the cell has no
                trial then
    """

    labels: tuple[str, ...]
    published: float | None
    trials: tuple[Trial, ...]
    assumed: Mapping[str, str]
    also: Mapping[str, float] = field(default_factory=dict)
    stopped: bool = False
    resources: Resources = ONE
    sample: Mapping[str, int] = field(default_factory=dict)
    parents: tuple[Parent, ...] = ()
    quoted: str = ""

    @property
    def row(self) -> str:
        """Its labels in one: `ResNet-18 · + RM (ours)`."""
        return " · ".join(self.labels)


@dataclass(frozen=True)
class FigureSpec:
    """A figure drawn by `analysis/figures/<draw>.py` with these options."""

    name: str
    draw: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Spec:
    """A spec file, resolved.

    search       of a spec that searches: its cells are what the winner is compared with, until the
                 winner is known
    margin_why   where the margin comes from
    overrides    settings from the command line, such as `train.epochs=5`
    """

    path: Path
    title: str
    paper: Paper | None
    metric: TableMetric
    margin: float
    seeds: tuple[int, ...]
    profile: str | None
    profiles: tuple[str, ...]
    axes: tuple[str, ...]
    cells: tuple[Cell, ...] = field(repr=False)
    claims: tuple[Claim, ...]
    figures: tuple[FigureSpec, ...]
    search: Search | None = None
    margin_why: str = ""
    overrides: tuple[str, ...] = ()

    @cached_property
    def variant(self) -> str | None:
        """What makes it another table than the paper's, its profile and its overrides:
        `smoke, train.epochs=5`; None of the real thing.
        """
        return ", ".join(filter(None, (self.profile, *self.overrides))) or None

    @property
    def title_name(self) -> str:
        """For people: `table3`, `table3 (smoke, train.epochs=5)`."""
        return f"{self.name} ({self.variant})" if self.variant else self.name

    @property
    def name(self) -> str:
        """The file's stem, by which records know the spec."""
        return self.path.stem

    @property
    def trials(self) -> tuple[Trial, ...]:
        """All trials in the order of the table, seeds innermost."""
        return tuple(trial for cell in self.cells for trial in cell.trials)

    @property
    def views(self) -> tuple["Spec", ...]:
        """This spec for its first metric, and a copy for each further one, with that metric's
        published numbers.
        """
        return (self, *self._further_views())

    def _further_views(self) -> Iterator["Spec"]:
        for name in self.metric.also:
            cells = (replace(cell, published=cell.also.get(name), also={}) for cell in self.cells)
            metric = replace(self.metric, name=name, also=())
            yield replace(self, metric=metric, cells=tuple(cells))


def with_winner(spec: Spec, best: SampleResult) -> Spec:
    """A spec that searches with what it found as its last row: trained with every seed, on the
    full training set.
    """
    if spec.search is None:
        return spec
    point, number = best.sample.point, best.sample.number
    why = (
        f"sample {number} of {spec.search.samples} ({describe(point)}), the best one on held-out "
        "training images"
    )
    cell = Cell((WINNER,), None, spec.search.trials(point, spec.seeds), dict.fromkeys(point, why))
    return replace(spec, cells=(*spec.cells, cell))


def file_stem(spec: str, variant: str | None, *more: str | None) -> str:
    """The stem of a file that is about a spec: `table3-smoke`. A variant may hold any character,
    such as a path's, and be longer than a name.
    """
    kept = re.sub(r"[^\w.=+-]+", "_", variant or "")
    if kept != (variant or "") or len(kept) > MOST_STEM:
        digest = hashlib.sha256((variant or "").encode()).hexdigest()[:6]
        kept = f"{kept[:MOST_STEM]}-{digest}"
    return "-".join(filter(None, (spec, kept, *more)))


def tag_name(name: str) -> str:
    """A spec's name as MLflow takes it in a tag's: a file may be called `two (1).yaml`. What had
    to be changed ends with a hash, so that no two specs share a tag.
    """
    kept = re.sub(r"[^\w .:/-]", "_", name)[:MOST_NAME]
    return kept if kept == name else f"{kept}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"
