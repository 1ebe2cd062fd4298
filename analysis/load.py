"""What a report is made from: the specs' records, the authors' logs, and the learning curves of as
many runs as a page can show.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from analysis.collect import collect_views
from analysis.paths import results_dir
from analysis.records.cache import Cache
from analysis.records.former import former_ids
from analysis.records.load import RecordsError, load_artifact, load_curves, load_records
from analysis.records.official import LogError, by_trial, load_official
from analysis.records.searches import sample_runs, with_search_results
from analysis.table import Official, Table
from launch.spec.load import Spec, load_spec

MOST_CURVES = 600
"""Runs whose learning curves are read and put on a page; beyond, every cell has its first seeds'
in turn.
"""


class InputError(Exception):
    """Something that was asked for cannot be had: the message is printed and the command exits
    with 2.
    """


class StoreAway(InputError):
    """The tracking store cannot be read now."""


@dataclass
class ReportData:
    """The records of all specs together; curves are read when they are first asked for, each
    once.
    """

    specs: Sequence[Spec]
    reduced: Sequence[Spec]
    records: pd.DataFrame
    official: Official
    uri: str
    cache: Cache
    _curves: dict[str, pd.DataFrame] = field(default_factory=dict)
    _chosen: set[str] | None = None

    def curves_of(self, table: Table) -> Callable[[str], pd.DataFrame]:
        """For a figure: metric -> the curves of this table's chosen runs."""
        runs = set(table.records["run_id"])

        def curves(metric: str) -> pd.DataFrame:
            frame = self._load(metric)
            frame = frame[frame["run_id"].isin(runs)].reset_index(drop=True)
            samples = sample_runs(table.spec)
            if not samples:
                return frame
            return pd.concat([frame, self._load_samples(samples, metric)], ignore_index=True)

        return curves

    def artifact(self, run_id: str, name: str) -> bytes | None:
        """For a figure: a file that a run kept, such as a picture; None where it has none of that
        name.
        """
        try:
            return load_artifact(run_id, name, self.uri)
        except RecordsError as error:
            raise StoreAway(str(error)) from error

    def page_curves(self, tables: Iterable[Table]) -> dict[tuple[str, str], dict[int, float]]:
        """For the page: metric and trial id -> epoch -> value."""
        trials = dict(zip(self.records["run_id"], self.records["trial_id"], strict=True))
        curves: dict[tuple[str, str], dict[int, float]] = {}
        for metric in sorted({table.metric.name for table in tables if _has_epochs(table)}):
            for run_id, points in self._load(f"test_{metric}").groupby("run_id"):
                curves[metric, trials[run_id]] = dict(
                    zip(points["epoch"], points["value"], strict=True)
                )
        return curves

    def curves_caption(self, table: Table) -> str:
        """The sentence above a table's learning curves; empty where it has none."""
        if not _has_epochs(table) or not len(table.records):
            return ""
        drawn = self._load(f"test_{table.metric.name}")["run_id"].unique()
        shown = sum(table.records["run_id"].isin(drawn))
        if not shown:
            return ""
        part = "all" if shown == len(table.records) else f"{shown} of {len(table.records)}"
        what = f"{table.metric.label[:1].upper()}{table.metric.label[1:]} on the test set"
        return f"{what} against epoch, the mean over each cell’s seeds, from {part} runs."

    def read_curves(self, tables: Sequence[Table]) -> int:
        """Read all that a page of these tables shows; returns how many points there are: what
        grows while trials run.
        """
        for metric in sorted({table.metric.name for table in tables if _has_epochs(table)}):
            self._load(f"test_{metric}")
        return sum(map(len, self._curves.values()))

    def choose(self, tables: Sequence[Table]) -> None:
        """Which runs' curves are shown: the first seed of every cell, then the second, until there
        are MOST_CURVES.
        """
        queues = [
            [seed.run_id for seed in cell.seeds if seed.run_id]
            for table in tables
            for cell in table.cells
        ]
        order = [
            queue[i]
            for i in range(max(map(len, queues), default=0))
            for queue in queues
            if i < len(queue)
        ]
        self._chosen = set(list(dict.fromkeys(order))[:MOST_CURVES])

    def _load_samples(self, runs: Sequence[str], metric: str) -> pd.DataFrame:
        """The curves of a search's samples."""
        key = " ".join((metric, *runs))
        if key not in self._curves:
            try:
                self._curves[key] = load_curves(runs, metric, self.uri)
            except RecordsError as error:
                raise StoreAway(str(error)) from error
        return self._curves[key]

    def _load(self, metric: str) -> pd.DataFrame:
        if metric not in self._curves:
            finished = set(self.records.loc[self.records["status"] == "FINISHED", "run_id"])
            try:
                self._curves[metric] = load_curves(
                    sorted(self._chosen or ()), metric, self.uri, self.cache, finished.__contains__
                )
            except RecordsError as error:
                raise StoreAway(str(error)) from error
        return self._curves[metric]


def load(specs: Sequence[Spec], uri: str, cache: Path, *, fresh: bool = False) -> ReportData:
    """Read the records of these specs and, of those at full scale, of their profiles too
    (`tables_of` takes what it needs).
    """
    kept = Cache(cache)
    try:
        specs = [with_search_results(spec, uri) for spec in specs]
        reduced = [copy for spec in specs if spec.variant is None for copy in profiles_of(spec)]
        trials = {trial.id: trial.values for spec in (*specs, *reduced) for trial in spec.trials}
        former = former_ids(trials)
        records = load_records(trials, uri, kept, fresh=fresh, former=former)
        official = by_trial(load_official(results_dir() / "official"), specs)
    except RecordsError as error:
        raise StoreAway(str(error)) from error
    except LogError as error:
        raise InputError(str(error)) from error
    return ReportData(specs, reduced, records, official, uri, kept)


def profiles_of(spec: Spec) -> list[Spec]:
    """The smaller copies of a spec, but for the one that only shows that everything runs."""
    return [load_spec(spec.path, profile) for profile in spec.profiles if profile != "smoke"]


def tables_of(data: ReportData, *, reduced_if_committed: bool) -> list[Table]:
    """A table for each spec and metric; after a spec those of its reduced copies that committed
    records stand for.
    """
    records, tables = data.records, []
    committed = (
        set(records.loc[records["origin"].notna(), "trial_id"]) if reduced_if_committed else set()
    )
    for spec in data.specs:
        tables += collect_views(spec, records, data.official)
        for copy in data.reduced:
            if copy.path == spec.path and committed & {trial.id for trial in copy.trials}:
                tables += collect_views(copy, records)
    data.choose(tables)
    return tables


def _has_epochs(table: Table) -> bool:
    return not table.further and not table.is_measured
