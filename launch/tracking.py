"""Mirrors journals into MLflow: one MLflow run a trial, in batches, idempotent, from where it left off.

What was mirrored stands in the MLflow run itself, as tags written in the same call as the points, so a lost or new store is
filled again from the run directories, and a mirror that was killed goes on without doubling anything.
"""

import fcntl
import json
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch import rundir
from launch.paths import results_dir, tracking_uri
from launch.trial import flatten

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

EXPERIMENT = "recursivemix"
MOST_METRICS = 1000
"""Metrics that MLflow takes in one call."""

_STATUS = {
    "finished": "FINISHED",
    "failed": "FAILED",
    "interrupted": "KILLED",
    "running": "RUNNING",
    "waiting": "SCHEDULED",
}
_NOT_METRICS = {"event", "time", "epoch"}


class TrackingError(RuntimeError):
    """The tracking store could not be written; nothing is lost, as `sync` mirrors at any later time."""


def mirror(run_dirs: Iterable[Path]) -> int:
    """Bring the store up to date with these run directories; returns how many of them had something new.

    Does not even load MLflow where the stamp of the last mirroring says that nothing is new.
    """
    behind = _Stamp.read().behind(run_dirs)
    if not behind:
        return 0
    with _one_writer():
        stamp = _Stamp.read()
        behind = stamp.behind(behind)
        marks = {run_dir: _mark(run_dir) for run_dir in behind}
        if behind:
            _Mirror().mirror(behind)
            _Stamp.read().add(marks)
    return len(behind)


@contextmanager
def _one_writer() -> Iterator[None]:
    """The sqlite store has one writer at a time; a second launcher waits here."""
    results_dir().mkdir(parents=True, exist_ok=True)
    with (results_dir() / ".mlflow.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _mark(run_dir: Path) -> list[Any]:
    """What changes whenever there is something to mirror: sizes of the journal and of the uses, and the state."""
    sizes = []
    for name in ("journal.jsonl", "uses.jsonl"):
        try:
            sizes.append((run_dir / name).stat().st_size)
        except OSError:
            sizes.append(-1)
    return [*sizes, rundir.state(run_dir)]


class _Stamp:
    """results/mirrored.json: what the store was last known to hold. Only ever a short cut; without it all is looked up."""

    def __init__(self, store: str, marks: dict[str, list[Any]]) -> None:
        self.store, self.marks = store, marks

    @staticmethod
    def _file() -> Path:
        return results_dir() / "mirrored.json"

    @staticmethod
    def _store() -> str:
        """The store's address; for a file also its inode, so that a deleted one is noticed."""
        uri = tracking_uri()
        if uri.startswith("sqlite:///"):
            try:
                uri += f"#{Path(uri.removeprefix('sqlite:///')).stat().st_ino}"
            except OSError:
                uri += "#missing"
        return uri

    @classmethod
    def read(cls) -> "_Stamp":
        try:
            data = json.loads(cls._file().read_text(encoding="utf-8"))
        except (OSError, ValueError):
            data = {"store": "", "marks": {}}
        store = cls._store()
        return cls(store, data["marks"] if data["store"] == store else {})

    def behind(self, run_dirs: Iterable[Path]) -> list[Path]:
        return [run_dir for run_dir in run_dirs if self.marks.get(run_dir.name) != _mark(run_dir)]

    def add(self, marks: dict[Path, list[Any]]) -> None:
        self.marks |= {run_dir.name: mark for run_dir, mark in marks.items()}
        aside = self._file().with_suffix(f".{os.getpid()}.tmp")
        aside.write_text(json.dumps({"store": self._store(), "marks": self.marks}), encoding="utf-8")
        aside.replace(self._file())


class _Mirror:
    """The store through MLflow's client, and the MLflow run of each trial."""

    def __init__(self) -> None:
        self.client = _connect()
        self.experiment = self._experiment()
        self.runs = {run.data.tags["trial_id"]: run for run in self._all_runs() if "trial_id" in run.data.tags}

    def _experiment(self) -> str:
        found = self.client.get_experiment_by_name(EXPERIMENT)
        if found is not None:
            return str(found.experiment_id)
        local = tracking_uri().startswith("sqlite:")
        place = (results_dir() / "artifacts").as_uri() if local else None
        return str(self.client.create_experiment(EXPERIMENT, artifact_location=place))

    def _all_runs(self) -> Iterator["Run"]:
        token = None
        while True:
            page = self.client.search_runs([self.experiment], max_results=10_000, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def mirror(self, run_dirs: Sequence[Path]) -> None:
        for run_dir in run_dirs:
            if (run_dir / "trial.json").exists():
                self._mirror_one(run_dir)

    def _mirror_one(self, run_dir: Path) -> None:
        trial = json.loads((run_dir / "trial.json").read_text(encoding="utf-8"))
        uses = _uses(run_dir)
        events, _ = rundir.read_events(run_dir)
        if not events:
            return  # nothing has happened yet
        begun = str(events[0]["time"])
        run = self.runs.get(trial["id"])
        if run is not None and run.data.tags.get("journal") != begun:
            self.client.delete_run(run.info.run_id)  # run again with --force: the former record stays in MLflow's trash
            run = None
        if run is None:
            run = self._create(trial, uses, begun, int(events[0]["time"] * 1000))
            self.runs[trial["id"]] = run
        self._log(run, run_dir, events, uses)

    def _create(self, trial: dict[str, Any], uses: list[dict[str, Any]], begun: str, start: int) -> "Run":
        name = uses[0]["label"] if uses else trial["id"]
        tags = {"trial_id": trial["id"], "journal": begun, "seed": str(trial["seed"]), "mlflow.user": "recursivemix"}
        run = self.client.create_run(self.experiment, start_time=start, tags=tags, run_name=name)
        from mlflow.entities import Param

        values = {key: value for key, value in trial.items() if key not in ("id", "numerics")}
        params = [Param(key, json.dumps(v) if not isinstance(v, str) else v) for key, v in sorted(flatten(values))]
        self.client.log_batch(run.info.run_id, params=params)
        return run

    def _log(self, run: "Run", run_dir: Path, events: list[dict[str, Any]], uses: list[dict[str, Any]]) -> None:
        """Send what is newer than the run's own tag says; tags and points of one epoch travel together."""
        from mlflow.entities import RunTag

        seen = int(run.data.tags.get("mirrored_epoch", 0))
        tags = {f"spec.{use['spec']}": use["row"] for use in uses} | _provenance(run_dir) | {"run_dir": str(run_dir)}
        new = {key: value for key, value in tags.items() if run.data.tags.get(key) != value}
        metrics, epoch = _metrics(events, seen, _finals(run_dir))
        for start in range(0, len(metrics), MOST_METRICS - 100):
            self.client.log_batch(run.info.run_id, metrics=metrics[start : start + MOST_METRICS - 100])
        if epoch > seen:
            new["mirrored_epoch"] = str(epoch)
        if new:
            self.client.log_batch(run.info.run_id, tags=[RunTag(key, str(value)[:5000]) for key, value in new.items()])
            run.data.tags.update(new)
        status = _STATUS[rundir.state(run_dir)]
        if status in ("RUNNING", "SCHEDULED"):
            self.client.update_run(run.info.run_id, status="RUNNING")
        else:
            self.client.set_terminated(run.info.run_id, status, end_time=int(events[-1]["time"] * 1000))


def _connect() -> "MlflowClient":
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault(
        "MLFLOW_LOGGING_LEVEL", "CRITICAL"
    )  # what fails is raised; its log would say it again, at length
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    from mlflow import MlflowClient

    logging.getLogger("mlflow").setLevel(os.environ["MLFLOW_LOGGING_LEVEL"])
    return MlflowClient(tracking_uri())


def _finals(run_dir: Path) -> dict[str, float]:
    """Best, last and median, once the run is finished; from result.json, which is what finished means."""
    try:
        result = json.loads((run_dir / "result.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return {**result["metrics"], "train_seconds": result["train_seconds"], "parameters": result["parameters"]}


def _metrics(events: list[dict[str, Any]], seen: int, finals: dict[str, float]) -> tuple[list["Metric"], int]:
    """The points of the epochs after `seen`, and of the end; a resumed run may journal an epoch again, the last one counts.

    Their times are the journal's, so a point that is sent twice is the same point to MLflow.
    """
    from mlflow.entities import Metric

    epochs = {event["epoch"]: event for event in events if event["event"] == "epoch"}
    last = max(epochs, default=0)
    points = [(step, epochs[step]) for step in sorted(epochs) if step > seen]
    points += [(last, {**finals, "time": events[-1]["time"]})] if finals else []
    return [
        Metric(key, float(value), int(values["time"] * 1000), step)
        for step, values in points
        for key, value in values.items()
        if key not in _NOT_METRICS
    ], last


def _uses(run_dir: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in (run_dir / "uses.jsonl").read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        return []


def _provenance(run_dir: Path) -> dict[str, str]:
    """Of the last attempt: host, device, commit (marked where the working tree differed from it)."""
    try:
        attempt = json.loads((run_dir / "provenance.json").read_text(encoding="utf-8"))[-1]
    except (OSError, ValueError):
        return {}
    commit = (
        f"{attempt['git_commit']}{'+changes' if attempt['git_diff'] else ''}" if attempt["git_commit"] else "unknown"
    )
    return {"host": attempt["host"], "device": attempt["device"], "git_commit": commit}
