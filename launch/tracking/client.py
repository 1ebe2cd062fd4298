"""MLflow's client, made ready for one writer: the experiment, and the runs of given trials."""

import functools
import logging
import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from launch.console import say
from launch.garbage import importing
from launch.paths import results_dir, sqlite_file, sqlite_uri, tracking_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

EXPERIMENT = "recursivemix"
FEW = 30
"""Up to so many trials are looked up one by one; beyond that, reading the whole experiment is
quicker.
"""

_PAGE = 2000
_LOCAL_DISKS = {"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "tmpfs", "overlay"}


class TrackingError(RuntimeError):
    """The tracking store could not be written; nothing is lost, as `sync` mirrors at any later
    time.
    """


class UnreadableRun(TrackingError):
    """A run directory cannot be mirrored because of a file of its own; the store is well."""


def connect() -> "MlflowClient":
    """A client of the store that `tracking_uri` names; only the one writer may ask for it, as it
    may make the store.
    """
    file = local_file()
    if file is not None and not file.parent.is_dir():
        raise TrackingError(f"there is no folder {file.parent}")  # MLflow would try for minutes
    if file is not None and not file.exists():
        # Left by whoever still has a deleted store open; a new store that took them over would be
        # spoilt.
        for leftover in ("-wal", "-shm", "-journal"):
            file.with_name(file.name + leftover).unlink(missing_ok=True)
        _make(file)
    return _connect(tracking_uri())


def _make(file: Path) -> None:
    """A new store, with all its tables, appears at once: MLflow makes them step by step, and
    cannot go on where it was killed.
    """
    aside = file.with_name(f"{file.name}.new")
    for leftover in ("", "-wal", "-shm", "-journal"):
        aside.with_name(aside.name + leftover).unlink(missing_ok=True)
    _connect(sqlite_uri(aside)).search_experiments(max_results=1)
    aside.replace(file)


def local_file() -> Path | None:
    """The sqlite file, where the store is one."""
    return sqlite_file(tracking_uri())


@functools.cache
def _connect(uri: str) -> "MlflowClient":
    """A client that neither reports home nor prints, and that sends no request twice by itself.

    A repeated `create_run` whose first answer got lost would make a second run; the mirror looks
    before it tries again.
    """
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    # MLflow's own limit is 120 s: so long a command would end later for a server that hangs.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault(
        "MLFLOW_LOGGING_LEVEL", "CRITICAL"
    )  # what fails is raised; its log would repeat it, at length
    with importing("mlflow"):
        from mlflow import MlflowClient

    logging.getLogger("mlflow").setLevel(os.environ["MLFLOW_LOGGING_LEVEL"])
    logging.getLogger("alembic").setLevel(logging.ERROR)
    client = MlflowClient(uri)
    if "%" in uri and sqlite_file(uri) is not None:
        client.search_experiments(max_results=1)
        _remove_stray(Path(uri.removeprefix("sqlite:///")))
    return client


def _remove_stray(quoted: Path) -> None:
    """MLflow makes the folder of an address as it is written, `%3F` for `?`, and leaves it
    empty.
    """
    for folder in quoted.parents:
        if "%" not in str(folder):
            return
        with suppress(OSError):
            folder.rmdir()


def experiment(client: "MlflowClient") -> str:
    """The id of our experiment, made where it is not there yet; a server decides itself where it
    keeps artifacts.
    """
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is not None and found.lifecycle_stage == "deleted":
        raise TrackingError(
            f"the experiment '{EXPERIMENT}' is in MLflow's trash; "
            f"take it out with `mlflow experiments restore --experiment-id {found.experiment_id}`"
        )
    file = local_file()
    place = None if is_server() else (results_dir() / "artifacts").as_uri()
    if found is not None:
        if place and file == results_dir() / "mlflow.db" and found.artifact_location != place:
            _move_artifacts(file, str(found.experiment_id), found.artifact_location, place)
        return str(found.experiment_id)
    if file is not None:
        _write_ahead(file)
    kind = {
        "mlflow.experimentKind": "custom_model_development"
    }  # else its pages are laid out for language models
    return str(client.create_experiment(EXPERIMENT, artifact_location=place, tags=kind))


def _move_artifacts(file: Path, experiment_id: str, old: str, new: str) -> None:
    """The results folder was moved or copied, its artifacts with it: MLflow notes whole paths, has
    no call to change them, and would write to the old place.
    """
    say(f"the results folder was {old.removesuffix('/artifacts')}; its artifacts are here now")
    with closing(sqlite3.connect(file, timeout=60)) as database, database:
        database.execute(
            "UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?",
            (new, experiment_id),
        )
        database.execute(
            "UPDATE runs SET artifact_uri = ? || substr(artifact_uri, ?) "
            "WHERE experiment_id = ? AND substr(artifact_uri, 1, ?) = ?",
            (new, len(old) + 1, experiment_id, len(old) + 1, f"{old}/"),
        )


def is_server() -> bool:
    return tracking_uri().startswith(("http://", "https://"))


def reaches_artifacts(place: str) -> bool:
    """Whether files sent to a run's place end where the server reads them: not in a folder of the
    server's, seen from elsewhere.
    """
    host = urlsplit(tracking_uri()).hostname
    return (
        not place.startswith(("file:", "/"))
        or not is_server()
        or host in ("localhost", "127.0.0.1", "::1")
    )


def _write_ahead(file: Path) -> None:
    """Switch a new store to sqlite's write-ahead log: a fifth of the time per commit, and readers
    do not hold up the mirror.

    The file remembers it, and two more stand beside it while it is in use: copy all three. Not on
    a network file system, where the log cannot be shared between machines.
    """
    if _file_system(file.parent) in _LOCAL_DISKS:
        with suppress(sqlite3.Error), closing(sqlite3.connect(file)) as database:
            database.execute("PRAGMA journal_mode=WAL")


def analyze_tables(file: Path) -> None:
    """Let sqlite note how its tables are filled, from a look at 10,000 entries of each index: some
    20 ms.

    Without that it searches the points of every run for those of one: of a million points 70 ms a
    learning curve instead of 0.1 ms, in the report and on MLflow's pages alike. It depends on how
    many runs there are: with a quarter more they are counted again.
    """
    with suppress(sqlite3.Error), closing(sqlite3.connect(file)) as database:
        (runs,) = database.execute("SELECT count(*) FROM runs").fetchone()
        if runs > 1.25 * _counted(database):
            database.execute("PRAGMA analysis_limit=10000")
            database.execute("ANALYZE")


def _counted(database: sqlite3.Connection) -> int:
    """How many runs there were when entries were last counted."""
    try:
        query = "SELECT max(CAST(stat AS INTEGER)) FROM sqlite_stat1 WHERE tbl = 'runs'"
        return database.execute(query).fetchone()[0] or 0
    except sqlite3.OperationalError:
        return 0  # never yet


def _file_system(folder: Path) -> str:
    """The type of the mount that a folder lies on, as Linux names it; "" elsewhere."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    mounts = {Path(line.split()[4]): line.partition(" - ")[2].split()[0] for line in lines}
    return next((mounts[place] for place in (folder, *folder.parents) if place in mounts), "")


def look_up(
    client: "MlflowClient", experiment_id: str, trial_ids: Sequence[str]
) -> "dict[str, list[Run]]":
    """The runs of these trials, by trial id; usually one each.

    A run may come twice, on two pages between which another folder's mirror made a run; it counts
    once.
    """
    found: dict[str, dict[str, Run]] = {}
    each = [f"tags.trial_id = '{trial_id}'" for trial_id in dict.fromkeys(trial_ids)]
    for condition in each if len(each) <= FEW else [""]:
        token = None
        while True:
            page = client.search_runs(
                [experiment_id], condition, max_results=_PAGE, page_token=token
            )
            for run in page:
                found.setdefault(run.data.tags.get("trial_id", ""), {})[run.info.run_id] = run
            token = page.token
            if not token:
                break
    return {trial_id: list(runs.values()) for trial_id, runs in found.items()}
