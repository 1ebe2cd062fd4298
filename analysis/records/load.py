"""What MLflow knows about trials, and what is committed of them, as data frames. The only importer
of mlflow in this package.

Reading never writes to the store: one that does not exist yet is an empty frame, and no database
file appears. With a `Cache`, what was read is kept beside the reports, and only what has changed
since is read again.
"""

import gc
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis.paths import tracking_uri as default_tracking_uri
from analysis.records import address, committed
from analysis.records.cache import Cache, Kept, Rows

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

EXPERIMENT = "recursivemix"
METRICS = ("top1_error", "top5_error")
SELECTIONS = ("best", "last", "median_last_10")
FINALS = tuple(f"{selection}_{metric}" for metric in METRICS for selection in SELECTIONS)
TAGS = ("run_dir", "host", "device", "git_commit", "origin", "versions")
MEASURED = "measured_"
"""What probes measured: a column for each such number that any of the records has, after
COLUMNS.
"""
COLUMNS = (
    "trial_id", "seed", "status", "run_id", "experiment_id", *TAGS, *FINALS, "best_epoch", "train_seconds", "ended", "link",
)  # fmt: skip

_PAGE = 1000
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
) -> pd.DataFrame:
    """One row per trial that has a record, with the columns COLUMNS, sorted by trial id.

    Of several runs of one trial a finished one is preferred, then the latest; a committed record
    counts where the store has nothing finished. status is MLflow's (FINISHED, RUNNING…),
    ended an ISO time in UTC or None, link the run's page where the tracking server has one, errors
    are in percent. fresh reads the whole store, whatever the cache says. Raises RecordsError for a
    store that exists and cannot be read.
    """
    wanted = set(trial_ids)
    uri = default_tracking_uri(tracking_uri)
    best: dict[str, dict[str, Any]] = {}
    if wanted and address.exists(uri):
        try:
            rows = _rows(uri, wanted, cache, fresh)
        except Exception as error:  # MLflow, SQLAlchemy and requests each bring their own
            raise RecordsError(address.explain(uri, error)) from error
        for row in rows.values():
            trial = row["trial_id"]
            if trial in wanted and (trial not in best or _rank(row) > _rank(best[trial])):
                best[trial] = row
    unfinished = {
        trial for trial in wanted if trial not in best or best[trial]["status"] != "FINISHED"
    }
    best |= committed.rows(unfinished)
    found = [best[trial] for trial in sorted(best)]
    measured = sorted({name for row in found for name in row if name.startswith(MEASURED)})
    return pd.DataFrame(found, columns=[*COLUMNS, *measured])


def _rows(uri: str, wanted: set[str], cache: Cache | None, fresh: bool) -> Rows:
    """Every run of the store, by its id: from the cache as far as that is still true."""
    stamp = address.stamp(uri)  # before reading: what is written meanwhile makes another stamp
    kept = cache.read(uri) if cache and not fresh else None
    if kept and stamp is not None and kept.stamp == stamp:
        return kept.rows
    client, begun, now = _client(uri), time.monotonic(), time.time()
    if kept is None or kept.seconds < _QUICK or now - kept.complete > _COMPLETE_AFTER:
        rows = {row["run_id"]: row for row in (_row(run, uri) for run in _runs(client))}
        kept = Kept(stamp, now, time.monotonic() - begun, rows)
    else:
        kept = Kept(stamp, kept.complete, kept.seconds, _refreshed(client, uri, kept.rows, wanted))
    if cache:
        cache.write(uri, kept)
    return kept.rows


def _refreshed(client: "MlflowClient", uri: str, rows: Rows, wanted: set[str]) -> Rows:
    """Read again what can have changed: runs begun or ended since, unfinished ones, trials without
    any.

    What this cannot see, a run that was mirrored long after it ended or one that was deleted, the
    next complete reading does.
    """

    def found(condition: str) -> Rows:
        return {row["run_id"]: row for row in (_row(run, uri) for run in _runs(client, condition))}

    started = max((row["started"] for row in rows.values()), default=0)
    ended = max((row["end"] or 0 for row in rows.values()), default=0)
    new = found(f"attributes.start_time > {started}") | found(f"attributes.end_time > {ended}")
    rows = rows | new
    missing = wanted - {row["trial_id"] for row in rows.values()}
    for trial in sorted(missing)[:_SINGLE] if len(missing) <= _SINGLE else []:
        rows |= found(f"tags.trial_id = '{trial}'")
    again = {row["trial_id"] for row in new.values()}
    doubtful = [
        run
        for run, row in rows.items()
        if run not in new and (row["status"] != "FINISHED" or row["trial_id"] in again)
    ]
    for start in range(0, len(doubtful), _PAGE // 4):
        some = doubtful[start : start + _PAGE // 4]
        here = found("attributes.run_id IN ({})".format(", ".join(f"'{run}'" for run in some)))
        rows = {run: row for run, row in rows.items() if run not in some or run in here} | here
    return rows


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
    run is read once and kept.
    """
    uri = default_tracking_uri(tracking_uri)
    points: list[tuple[str, int, float]] = []
    if run_ids and address.exists(uri):
        kept = cache.curves(uri, metric) if cache else {}
        unknown = [
            run_id
            for run_id in run_ids
            if run_id not in kept and not run_id.startswith(committed.PREFIX)
        ]
        try:
            read = _histories(uri, unknown, metric)
        except Exception as error:  # as above
            raise RecordsError(address.explain(uri, error)) from error
        if cache and any(finished(run_id) for run_id in unknown):
            cache.keep_curves(
                uri, metric, kept | {run: curve for run, curve in read.items() if finished(run)}
            )
        found = kept | read
        points = [
            (run, int(epoch), value)
            for run in set(run_ids) & found.keys()
            for epoch, value in found[run]
        ]
    points += [
        (run, epoch, value)
        for run, curve in committed.curves(run_ids, metric).items()
        for epoch, value in curve
    ]
    points.sort(key=lambda point: point[:2])
    return pd.DataFrame(points, columns=["run_id", "epoch", "value"])


def _histories(
    uri: str, run_ids: Sequence[str], metric: str
) -> dict[str, list[tuple[int, float]]]:
    if not run_ids:
        return {}
    client = _client(uri)
    histories = {}
    for run_id in run_ids:
        points = sorted(
            client.get_metric_history(run_id, metric), key=lambda point: point.timestamp
        )
        histories[run_id] = sorted({point.step: point.value for point in points}.items())
    return histories


def load_artifact(run_id: str, name: str, tracking_uri: str | None = None) -> bytes | None:
    """A file that a run kept, such as a picture; None where it has none of that name."""
    if run_id.startswith(committed.PREFIX):
        return None
    uri = default_tracking_uri(tracking_uri)
    try:
        client = _client(uri)
        if name not in {found.path for found in client.list_artifacts(run_id)}:
            return None
        with tempfile.TemporaryDirectory() as folder:
            return Path(client.download_artifacts(run_id, name, folder)).read_bytes()
    except Exception as error:  # as above
        raise RecordsError(address.explain(uri, error)) from error


def _client(uri: str) -> "MlflowClient":
    """An MLflow client that neither reports home nor waits minutes for an absent server."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    from mlflow import MlflowClient  # costs seconds: only where a store exists

    for chatty in ("alembic", "mlflow"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    return MlflowClient(tracking_uri=uri)


def _runs(client: "MlflowClient", condition: str = "") -> "Iterator[Run]":
    """The runs of the experiment, all or those of a condition, newest first, page by page."""
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        return
    token = None
    while True:
        with _no_collections():
            page = client.search_runs(
                [experiment.experiment_id], condition, max_results=_PAGE, page_token=token
            )
        yield from page
        token = page.token
        if not token:
            return


@contextmanager
def _no_collections() -> Iterator[None]:
    """A page's runs, tags and params are tens of thousands of objects that all live: looking for
    garbage took most of the time.
    """
    were_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if were_on:
            gc.enable()


def _row(run: "Run", uri: str) -> dict[str, Any]:
    tags, metrics = run.data.tags, run.data.metrics
    seed = tags.get("seed", "")
    end = run.info.end_time
    return {
        "trial_id": tags.get("trial_id"),
        "seed": int(seed) if seed.lstrip("-").isdigit() else None,
        "status": run.info.status,
        "run_id": run.info.run_id,
        "experiment_id": run.info.experiment_id,
        **{tag: tags.get(tag) for tag in TAGS},
        **{name: metrics.get(name) for name in (*FINALS, "best_epoch", "train_seconds")},
        **{name: value for name, value in metrics.items() if name.startswith(MEASURED)},
        "ended": datetime.fromtimestamp(end / 1000, UTC).isoformat(timespec="seconds")
        if end
        else None,
        "link": address.link(uri, run.info.experiment_id, run.info.run_id),
        "started": run.info.start_time or 0,
        "end": end,
    }


def _rank(row: dict[str, Any]) -> tuple[bool, int]:
    return row["status"] == "FINISHED", row["started"]


def load_rows(tag: str, row: str, tracking_uri: str | None = None) -> list[dict[str, Any]]:
    """Every record whose rows in a spec begin with `row`, oldest first: trial_id, rows, run_id,
    status, params, metrics.

    tag   spec.<name>, or spec.<name>.<profile>
    """
    uri = default_tracking_uri(tracking_uri)
    if not address.exists(uri):
        return []
    try:
        found = list(_runs(_client(uri), f"tags.`{tag}` LIKE '{row}%'"))
    except Exception as error:  # as above
        raise RecordsError(address.explain(uri, error)) from error
    return [
        {
            "trial_id": run.data.tags.get("trial_id"),
            "rows": run.data.tags[tag].split(" | "),
            "run_id": run.info.run_id,
            "status": run.info.status,
            "params": run.data.params,
            "metrics": run.data.metrics,
        }
        for run in sorted(found, key=lambda run: run.info.start_time or 0)
    ]
