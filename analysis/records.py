"""What MLflow knows about trials, as data frames. The only importer of mlflow in this package.

Reading never writes: a store that does not exist yet is an empty frame, and no database file appears.
"""

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import pandas as pd

from analysis.paths import tracking_uri as default_tracking_uri
from analysis.paths import without_secrets

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

EXPERIMENT = "recursivemix"
METRICS = ("top1_error", "top5_error")
SELECTIONS = ("best", "last", "median_last_10")
FINALS = tuple(f"{selection}_{metric}" for metric in METRICS for selection in SELECTIONS)
TAGS = ("run_dir", "host", "device", "git_commit")
MEASURED = "measured_"
"""What probes measured: a column for each such number that any of the records has, after COLUMNS."""
COLUMNS = ("trial_id", "seed", "status", "run_id", *TAGS, *FINALS, "best_epoch", "train_seconds", "ended", "link")

_PAGE = 1000


class RecordsError(Exception):
    """The tracking store cannot be read: the message names it and says why."""


def load_records(trial_ids: Iterable[str], tracking_uri: str | None = None) -> pd.DataFrame:
    """One row per trial that has a record, with the columns COLUMNS, sorted by trial id.

    Of several runs of one trial a finished one is preferred, then the latest. status is MLflow's (FINISHED, RUNNING…),
    ended an ISO time in UTC or None, link the run's page where the tracking server has one, errors are in percent.
    Raises RecordsError for a store that exists and cannot be read.
    """
    wanted = set(trial_ids)
    uri = default_tracking_uri(tracking_uri)
    best: dict[str, dict[str, Any]] = {}
    if wanted and _exists(uri):
        try:
            for run in _runs(_client(uri)):
                row = _row(run, uri)
                trial = row["trial_id"]
                if trial in wanted and (trial not in best or _rank(row) > _rank(best[trial])):
                    best[trial] = row
                    if len(best) == len(wanted) and all(found["status"] == "FINISHED" for found in best.values()):
                        break
        except Exception as error:  # MLflow, SQLAlchemy and requests each bring their own
            raise RecordsError(_explain(uri, error)) from error
    rows = [best[trial] for trial in sorted(best)]
    measured = sorted({name for row in rows for name in row if name.startswith(MEASURED)})
    return pd.DataFrame(rows, columns=[*COLUMNS, *measured])


def load_curves(run_ids: Sequence[str], metric: str, tracking_uri: str | None = None) -> pd.DataFrame:
    """One metric of some runs over their epochs: columns run_id, epoch, value, sorted by the first two.

    An epoch logged twice, as after a resumption, keeps its latest value.
    """
    uri = default_tracking_uri(tracking_uri)
    points: dict[tuple[str, int], float] = {}
    if run_ids and _exists(uri):
        try:
            client = _client(uri)
            for run_id in run_ids:
                for point in sorted(client.get_metric_history(run_id, metric), key=lambda point: point.timestamp):
                    points[run_id, point.step] = point.value
        except Exception as error:  # as above
            raise RecordsError(_explain(uri, error)) from error
    rows = [(run_id, epoch, value) for (run_id, epoch), value in sorted(points.items())]
    return pd.DataFrame(rows, columns=["run_id", "epoch", "value"])


def _exists(uri: str) -> bool:
    """Whether a store is there to be read; MLflow would create a missing local one."""
    parts = urlsplit(uri)
    if parts.scheme.startswith("sqlite"):
        file = Path(unquote(uri.split("///", 1)[-1].split("?")[0]))
        return file.is_file() and file.stat().st_size > 0
    if parts.scheme in ("", "file"):
        return Path(unquote(parts.path)).is_dir()
    return True


def _client(uri: str) -> "MlflowClient":
    """An MLflow client that neither reports home nor waits minutes for an absent server."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    from mlflow import MlflowClient  # costs seconds: only where a store exists

    for chatty in ("alembic", "mlflow"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    return MlflowClient(tracking_uri=uri)


def _runs(client: "MlflowClient") -> "Iterator[Run]":
    """All runs of the experiment, newest first, page by page."""
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        return
    token = None
    while True:
        page = client.search_runs([experiment.experiment_id], max_results=_PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _row(run: "Run", uri: str) -> dict[str, Any]:
    tags, metrics = run.data.tags, run.data.metrics
    seed = tags.get("seed", "")
    end = run.info.end_time
    return {
        "trial_id": tags.get("trial_id"),
        "seed": int(seed) if seed.lstrip("-").isdigit() else None,
        "status": run.info.status,
        "run_id": run.info.run_id,
        **{tag: tags.get(tag) for tag in TAGS},
        **{name: metrics.get(name) for name in (*FINALS, "best_epoch", "train_seconds")},
        **{name: value for name, value in metrics.items() if name.startswith(MEASURED)},
        "ended": datetime.fromtimestamp(end / 1000, UTC).isoformat(timespec="seconds") if end else None,
        "link": _link(run, uri),
        "_started": run.info.start_time or 0,
    }


def _rank(row: dict[str, Any]) -> tuple[bool, int]:
    return row["status"] == "FINISHED", row["_started"]


def _link(run: "Run", uri: str) -> str | None:
    if not uri.startswith(("http://", "https://")):
        return None
    # Credentials in the address are for this program, not for a page that is passed on.
    address = urlsplit(without_secrets(uri))._replace(query="", fragment="").geturl().rstrip("/")
    return f"{address}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"


def _explain(uri: str, error: Exception) -> str:
    first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return (
        f"{without_secrets(uri)}: the records cannot be read: {without_secrets(uri, first_line)}\n"
        "valid: the address of a running MLflow server (http://host:port) or sqlite:///path/to/mlflow.db"
    )
