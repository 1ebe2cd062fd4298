"""Sends to one MLflow run what it does not hold yet of a record, and ends it."""

import tempfile
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from launch.tracking import record
from launch.tracking.client import TrackingError, reaches_artifacts
from launch.tracking.record import Record

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

MOST_AT_ONCE = 1000
"""Metrics, params and tags together that MLflow takes in one call."""


def send(client: "MlflowClient", run: "Run", found: Record) -> None:
    """What the run does not hold yet, in as few calls as MLflow's limits allow; an epoch is
    never cut in two.
    """
    from mlflow.entities import Metric, Param, RunTag

    data, run_id = run.data, run.info.run_id
    params = [Param(key, value) for key, value in found.params if key not in data.params]
    tags = [RunTag(key, value) for key, value in found.tags.items() if data.tags.get(key) != value]
    groups = found.points(int(data.metrics.get(record.CURSOR_METRIC, 0)))
    if record.FINAL_METRIC not in data.metrics and (finals := found.finals()):
        groups = chain(groups, [finals])
    for batch in record.batches(groups, MOST_AT_ONCE - len(params) - len(tags), MOST_AT_ONCE):
        metrics = [Metric(*point) for point in batch]
        client.log_batch(run_id, metrics=metrics, params=params, tags=tags)
        params, tags = [], []
    if params or tags:
        client.log_batch(run_id, params=params, tags=tags)
    _send_samples(client, run_id, found, int(data.tags.get(record.SAMPLES_TAG, 0)))
    if "error" in data.tags and "error" not in found.tags:
        client.delete_tag(run_id, "error")


def _send_samples(client: "MlflowClient", run_id: str, found: Record, after: int) -> None:
    """System metrics; one that is sent again, after a death between it and its mark, is the
    same point.
    """
    from mlflow.entities import Metric, RunTag

    for batch in record.batches(found.samples(after), MOST_AT_ONCE - 1, MOST_AT_ONCE - 1):
        tags = [RunTag(record.SAMPLES_TAG, str(batch[-1].step))]
        client.log_batch(run_id, metrics=[Metric(*point) for point in batch], tags=tags)


def finalise(client: "MlflowClient", run: "Run", found: Record, scratch: str) -> bool:
    """Artifacts first, then the status: a run that is over in the store has its artifacts
    there. Returns whether it ended by this.
    """
    run_id, info = run.info.run_id, run.info
    if found.status == "RUNNING":
        if info.status != "RUNNING":
            client.update_run(run_id, status="RUNNING")
        return False
    over = (info.status, info.end_time) == (found.status, found.end)
    if over and "artifacts_error" not in run.data.tags:
        return False
    try:
        _attach(client, run, found, scratch)
    except (
        Exception
    ) as error:  # another storage than the records': its absence must not make a status untrue
        client.set_tag(run_id, "artifacts_error", f"{type(error).__name__}: {error}"[:1000])
    else:
        if "artifacts_error" in run.data.tags:
            client.delete_tag(run_id, "artifacts_error")
    client.set_terminated(run_id, found.status, end_time=found.end)
    return True


def _attach(client: "MlflowClient", run: "Run", found: Record, scratch: str) -> None:
    place = run.info.artifact_uri or ""
    if not reaches_artifacts(place):
        raise TrackingError(
            f"the experiment keeps artifacts in {place}, a folder of the server's machine"
        )
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        found.write_artifacts(Path(folder))
        client.log_artifacts(run.info.run_id, folder)
