"""MLflow's side of reading records. The only importer of mlflow in this package."""

import json
import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.records import address
from analysis.records.recorded import is_result
from launch.garbage import without_gc

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

EXPERIMENT = "recursivemix"
TAGS = ("run_dir", "host", "device", "git_commit", "origin", "versions")
PAGE = 1000


def client(uri: str) -> "MlflowClient":
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


def runs(client: "MlflowClient", condition: str = "") -> "Iterator[Run]":
    """The runs of the experiment, all or those of a condition, newest first, page by page."""
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        return
    token = None
    while True:
        with without_gc():
            page = client.search_runs(
                [experiment.experiment_id], condition, max_results=PAGE, page_token=token
            )
        yield from page
        token = page.token
        if not token:
            return


def row(run: "Run", uri: str) -> dict[str, Any]:
    """A run as a row of `load.load_records`, with the times that tell what is new."""
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
        **{name: metrics.get(name) for name in ("best_epoch", "train_seconds")},
        **{name: value for name, value in metrics.items() if is_result(name)},
        "ended": datetime.fromtimestamp(end / 1000, UTC).isoformat(timespec="seconds")
        if end
        else None,
        "link": address.link(uri, run.info.experiment_id, run.info.run_id),
        "started": run.info.start_time or 0,
        "end": end,
    }


def sample(run: "Run", tag: str) -> dict[str, Any]:
    """A run as `load.load_samples` gives it."""
    return {
        **json.loads(run.data.tags[tag]),
        "trial_id": run.data.tags.get("trial_id"),
        "run_id": run.info.run_id,
        "status": run.info.status,
        "params": run.data.params,
        "metrics": run.data.metrics,
    }


def histories(uri: str, run_ids: Sequence[str], metric: str) -> dict[str, list[tuple[int, float]]]:
    """(epoch, value) of each run; of an epoch logged twice the latest value."""
    if not run_ids:
        return {}
    reader = client(uri)
    curves = {}
    for run_id in run_ids:
        points = sorted(
            reader.get_metric_history(run_id, metric), key=lambda point: point.timestamp
        )
        curves[run_id] = sorted({point.step: point.value for point in points}.items())
    return curves


def artifact(uri: str, run_id: str, name: str) -> bytes | None:
    """A file that a run kept; None where it has none of that name."""
    reader = client(uri)
    if name not in {file.path for file in reader.list_artifacts(run_id)}:
        return None
    with tempfile.TemporaryDirectory() as folder:
        return Path(reader.download_artifacts(run_id, name, folder)).read_bytes()
