"""What MLflow knows about trials, and what is committed of them, as data frames.

Reading never writes to the store: one that does not exist yet is an empty frame, and no database
file appears. With a `Cache`, what was read is kept beside the reports, and only what has changed
since is read again.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pandas as pd

from analysis.paths import tracking_uri as default_tracking_uri
from analysis.records import address, committed, store
from analysis.records.cache import Cache, CachedStore, Rows
from analysis.records.former import FormerIds, as_of_today, is_finished
from analysis.records.recorded import is_result, series
from analysis.records.store import EXPERIMENT as EXPERIMENT
from analysis.records.store import TAGS
from launch.spec.spec import tag_name

COLUMNS = (
    "trial_id", "seed", "status", "run_id", "experiment_id", *TAGS, "numerics", "best_epoch",
    "train_seconds", "ended", "link",
)  # fmt: skip
"""What every record has. After them stand the results, a column for each that any record has:
`best_top1_error`, `last_miou`, `median_last_10_top1_error.auxiliary`, `measured_overhead`.
"""

_QUICK = 2.0
"""Seconds within which a store is read whole each time, so that nothing in it can be
overlooked.
"""
_COMPLETE_AFTER = 3600.0
"""A larger store is read whole once an hour, in between only where something can have changed."""
_SINGLE = 100
"""At most so many trials without a record are looked up one by one."""


class RecordsError(Exception):
    """The tracking store cannot be read: the message names it and says why."""


def load_records(
    trial_ids: Iterable[str],
    tracking_uri: str | None = None,
    cache: Cache | None = None,
    *,
    fresh: bool = False,
    former: FormerIds | None = None,
) -> pd.DataFrame:
    """One row per trial that has a record, with the columns COLUMNS and those of results, sorted
    by trial id.

    Of several runs of one trial a finished one is preferred, then the latest; a committed record
    counts where the store has nothing finished. status is MLflow's (FINISHED, RUNNING…), ended an
    ISO time in UTC or None, link the run's page where the tracking server has one.

    fresh    reads the whole store, whatever the cache says
    former   records under these ids count too, see `former.as_of_today`

    Raises RecordsError for a store that exists and cannot be read.
    """
    former = former or {}
    wanted = {*trial_ids, *former}
    uri = default_tracking_uri(tracking_uri)
    best: Rows = {}
    if wanted and address.exists(uri):
        try:
            rows = _rows(uri, wanted, cache, fresh)
        except Exception as error:  # MLflow, SQLAlchemy and requests each bring their own
            raise RecordsError(address.explain(uri, error)) from error
        for row in rows.values():
            trial = row["trial_id"]
            if trial in wanted and (trial not in best or _rank(row) > _rank(best[trial])):
                best[trial] = row
    best |= committed.rows({trial for trial in wanted if not is_finished(best.get(trial))})
    return to_frame(as_of_today(best, former))


def to_frame(rows: Rows) -> pd.DataFrame:
    """Rows by trial id as a frame sorted by it, with a column for each result that any has."""
    results = sorted({name for row in rows.values() for name in row if is_result(name)})
    return pd.DataFrame([rows[trial] for trial in sorted(rows)], columns=[*COLUMNS, *results])


def load_curves(
    run_ids: Sequence[str],
    metric: str,
    tracking_uri: str | None = None,
    cache: Cache | None = None,
    finished: Callable[[str], bool] = lambda run_id: False,
) -> pd.DataFrame:
    """One metric of some runs over their epochs: columns run_id, epoch, value, sorted by the first
    two.

    An epoch logged twice, as after a resumption, keeps its latest value. The curve of a finished
    run is read once and kept. The points of a probe are counted as epochs are.
    """
    uri = default_tracking_uri(tracking_uri)
    recorded, value_of = series(metric)
    curves: dict[str, list[tuple[int, float]]] = {}
    if run_ids and address.exists(uri):
        kept = cache.curves(uri, recorded) if cache else {}
        unknown = [
            run_id
            for run_id in run_ids
            if run_id not in kept and not run_id.startswith(committed.PREFIX)
        ]
        try:
            read = store.histories(uri, unknown, recorded)
        except Exception as error:  # as above
            raise RecordsError(address.explain(uri, error)) from error
        if cache and any(finished(run_id) for run_id in unknown):
            new = {run: curve for run, curve in read.items() if finished(run)}
            cache.keep_curves(uri, recorded, kept | new)
        known = kept | read
        curves = {run: known[run] for run in set(run_ids) & known.keys()}
    curves |= committed.curves(run_ids, recorded)
    points = [
        (run, int(epoch), value_of(value))
        for run, curve in curves.items()
        for epoch, value in curve
    ]
    points.sort(key=lambda point: point[:2])
    return pd.DataFrame(points, columns=["run_id", "epoch", "value"])


def load_artifact(run_id: str, name: str, tracking_uri: str | None = None) -> bytes | None:
    """A file that a run kept, such as a picture; None where it has none of that name."""
    if run_id.startswith(committed.PREFIX):
        return None
    uri = default_tracking_uri(tracking_uri)
    try:
        return store.artifact(uri, run_id, name)
    except Exception as error:  # as above
        raise RecordsError(address.explain(uri, error)) from error


def load_samples(search: str, tracking_uri: str | None = None) -> list[dict[str, Any]]:
    """Every record of a sample of a search, oldest first: sample (its number), stopped (the epoch,
    where the scheduler stopped it), trial_id, run_id, status, params, metrics.

    search   <spec>, or <spec>.<profile>
    """
    uri = default_tracking_uri(tracking_uri)
    if not address.exists(uri):
        return []
    tag = f"search.{tag_name(search)}"
    try:
        runs = list(store.runs(store.client(uri), f"tags.`{tag}` LIKE '{{%'"))
    except Exception as error:  # as above
        raise RecordsError(address.explain(uri, error)) from error
    runs.sort(key=lambda run: run.info.start_time or 0)
    return [store.sample(run, tag) for run in runs]


def _rows(uri: str, wanted: set[str], cache: Cache | None, fresh: bool) -> Rows:
    """Every run of the store, by its id: from the cache as far as that is still true."""
    stamp = address.stamp(uri)  # before reading: what is written meanwhile makes another stamp
    kept = cache.read(uri) if cache and not fresh else None
    if kept and stamp is not None and kept.stamp == stamp:
        return kept.rows
    client, begun, now = store.client(uri), time.monotonic(), time.time()
    if kept is None or kept.seconds < _QUICK or now - kept.complete > _COMPLETE_AFTER:
        rows = {row["run_id"]: row for row in (store.row(run, uri) for run in store.runs(client))}
        kept = CachedStore(stamp, now, time.monotonic() - begun, rows)
    else:
        rows = _refreshed(client, uri, kept.rows, wanted)
        kept = CachedStore(stamp, kept.complete, kept.seconds, rows)
    if cache:
        cache.write(uri, kept)
    return kept.rows


def _refreshed(client: Any, uri: str, rows: Rows, wanted: set[str]) -> Rows:
    """Read again what can have changed: runs begun or ended since, unfinished ones, trials without
    any.

    What this cannot see, a run that was mirrored long after it ended or one that was deleted, the
    next complete reading does.
    """

    def read(condition: str) -> Rows:
        return {
            row["run_id"]: row
            for row in (store.row(run, uri) for run in store.runs(client, condition))
        }

    started = max((row["started"] for row in rows.values()), default=0)
    ended = max((row["end"] or 0 for row in rows.values()), default=0)
    new = read(f"attributes.start_time > {started}") | read(f"attributes.end_time > {ended}")
    rows = rows | new
    missing = wanted - {row["trial_id"] for row in rows.values()}
    for trial in sorted(missing)[:_SINGLE] if len(missing) <= _SINGLE else []:
        rows |= read(f"tags.trial_id = '{trial}'")
    again = {row["trial_id"] for row in new.values()}
    doubtful = [
        run
        for run, row in rows.items()
        if run not in new and (row["status"] != "FINISHED" or row["trial_id"] in again)
    ]
    for start in range(0, len(doubtful), store.PAGE // 4):
        some = doubtful[start : start + store.PAGE // 4]
        present = read("attributes.run_id IN ({})".format(", ".join(f"'{run}'" for run in some)))
        rows = {run: row for run, row in rows.items() if run not in some or run in present}
        rows |= present
    return rows


def _rank(row: dict[str, Any]) -> tuple[bool, int]:
    return is_finished(row), row["started"]
