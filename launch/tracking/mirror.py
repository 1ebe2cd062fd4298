"""Mirrors journals into MLflow: one MLflow run a trial, every point once, whoever is killed at
whatever moment.

How far a run is mirrored stands in the store itself, as the metric `epoch`, which MLflow writes in
one transaction with the points it counts. A mirror that is killed, or whose server is, therefore
finds out from the store what is missing; a store that is lost is filled again from the run
directories. This module and analysis/records/load.py alone import mlflow.
"""

import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

from launch.garbage import without_gc
from launch.interpreter import child_environment, module_command
from launch.tracking import record
from launch.tracking.client import (  # fmt: skip
    EXPERIMENT,
    TrackingError,
    UnreadableRun,
    analyze_tables,
    connect,
    experiment,
    local_file,
    look_up,
)
from launch.tracking.cursor import Fingerprint, SyncCursor, fingerprint
from launch.tracking.lock import PendingCreates, identity, writer_lock
from launch.tracking.record import Record
from launch.tracking.send import finalise, send

__all__ = ["Progress", "TrackingError", "UnreadableRun", "attach_weights", "initialise", "mirror"]

if TYPE_CHECKING:
    from mlflow.entities import Run

ATTEMPTS = 3
REMEMBER_SECONDS = 5.0

Progress = Callable[[int, int], None]
"""Called with how many run directories are done, and how many there are to do."""


def mirror(
    run_dirs: Iterable[Path], *, full: bool = False, progress: Progress | None = None
) -> int:
    """Bring the store up to date with these run directories; returns how many of them had
    something new.

    Does not even load MLflow where the fingerprints of the last mirroring say that nothing is new;
    `full` trusts the store alone. Raises TrackingError, after all others are done, naming the run
    directories that could not be mirrored.
    """
    todo = list(run_dirs)
    if not full and not (todo := SyncCursor.read().behind(todo)):
        return 0
    with writer_lock() as pending:
        cursor = SyncCursor.read()
        if not full:
            todo = cursor.behind(todo)
        if todo:
            with _Mirror(pending) as working:
                working.mirror(todo, cursor, progress or (lambda done, of: None))
    return len(todo)


def initialise() -> None:
    """Make the store's tables, as the one writer: MLflow's migrations do not bear two at a time.

    The experiment too where the store is this folder's own; in a shared one, the server's first
    client makes it.
    """
    with writer_lock():
        client = connect()
        if (file := local_file()) is None:
            client.get_experiment_by_name(EXPERIMENT)
        else:
            experiment(client)
            analyze_tables(file)


def attach_weights(run_dirs: Iterable[Path], progress: Progress | None = None) -> int:
    """Export the weights of finished, mirrored runs and keep them as artifacts; returns of how
    many they are new.

    Measurements have none, and those of committed runs are where they were trained. Raises
    TrackingError, after all others are done, naming the first whose weights cannot be exported.
    """
    finished = [
        found for run_dir in run_dirs if (found := record.read(run_dir)) and found.has_weights
    ]
    count = 0
    with writer_lock() as pending, _Mirror(pending) as working:
        known = working.look_up([found.trial_id for found in finished])
        for done, found in enumerate(finished, 1):
            for run in known.get(found.trial_id, []):
                if (
                    run.data.tags.get("journal") == found.journal
                    and "weights" not in run.data.tags
                ):
                    count += working.attach_weights(run, found.run_dir)
            if progress is not None:
                progress(done, len(finished))
        if working.failures:
            raise working.sum_up("exported")
    return count


class _Mirror:
    """One mirroring, by the one writer."""

    def __init__(self, pending: PendingCreates) -> None:
        self.pending = pending
        self.client = connect()
        self.experiment = experiment(self.client)
        self.folder = identity()
        self.scratch = tempfile.TemporaryDirectory(prefix="rm-mirror-")
        self.failures: list[tuple[Path, Exception]] = []
        self.finalised = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.scratch.cleanup()

    def look_up(self, trial_ids: Sequence[str]) -> "dict[str, list[Run]]":
        return look_up(self.client, self.experiment, trial_ids)

    def mirror(self, run_dirs: Sequence[Path], cursor: SyncCursor, progress: Progress) -> None:
        """One after another; what is done is remembered every few seconds, and a bad one does not
        stop the others.
        """
        known = self.look_up([run_dir.name for run_dir in run_dirs])
        done: dict[Path, Fingerprint] = {}
        remembered = time.monotonic()
        for count, run_dir in enumerate(run_dirs, 1):
            with without_gc():
                found = self._mirror_one(run_dir, known.get(run_dir.name, []))
            if found is not None:
                done[run_dir] = found
            if time.monotonic() - remembered > REMEMBER_SECONDS:
                cursor.add(done)
                done, remembered = {}, time.monotonic()
            progress(count, len(run_dirs))
        for trial_id, runs in (
            self.look_up(self.pending.unconfirmed).items() if self.pending.unconfirmed else ()
        ):
            self._one_of(
                runs,
                {
                    run.data.tags["journal"]
                    for run in runs
                    if run.data.tags.get("trial_id") == trial_id
                },
            )
        cursor.add(done)
        self.pending.settled()
        if self.finalised and (file := local_file()):
            analyze_tables(file)
        if self.failures:
            raise self.sum_up("mirrored")

    def sum_up(self, what: str) -> TrackingError:
        run_dir, error = self.failures[0]
        more = f" (and {len(self.failures) - 1} more)" if len(self.failures) > 1 else ""
        if all(isinstance(each, UnreadableRun) for _, each in self.failures):
            return UnreadableRun(f"{run_dir}{more} could not be {what}: {error}")
        return TrackingError(
            f"{run_dir}{more} could not be {what}: {type(error).__name__}: {error}"
        )

    def _mirror_one(self, run_dir: Path, runs: "list[Run]") -> Fingerprint | None:
        """The mark to remember, None where it failed. A call that failed may have been carried
        out: look before trying again.
        """
        try:
            done, found = fingerprint(run_dir), record.read(run_dir)
        except (ValueError, KeyError, TypeError, OSError) as error:  # a spoilt journal or result
            self.failures.append((run_dir, UnreadableRun(str(error))))
            return None
        if found is None:
            return done
        for attempt in range(1, ATTEMPTS + 1):
            try:
                if attempt > 1 or found.trial_id != run_dir.name:
                    runs = self.look_up([found.trial_id]).get(found.trial_id, [])
                self._upsert(found, runs)
                return done
            except Exception as error:  # whatever MLflow, its server or its database brings
                failure = error
                time.sleep(0.5 * attempt)
        self.client.get_experiment(
            self.experiment
        )  # raises where the store is away: then the others need not be tried
        self.failures.append((run_dir, failure))
        return None

    def _upsert(self, found: Record, runs: "list[Run]") -> None:
        current = []
        for run in runs:
            if self._is_former(run, found) or self._is_superseded(run, found):
                self.client.delete_run(run.info.run_id)  # it stays in MLflow's trash
            else:
                current.append(run)
        kept = self._one_of(current, {found.journal}) or self._create(found)
        send(self.client, kept, found)
        self.finalised += finalise(self.client, kept, found, self.scratch.name)

    def _is_superseded(self, run: "Run", found: Record) -> bool:
        """Whether epochs that it holds were journalled again after a kill.

        MLflow takes no point back, and two at one step would be read as two epochs: such a run is
        made anew. The time of its newest epoch tells, as all later ones were journalled later.
        """
        mirrored = int(run.data.metrics.get(record.CURSOR_METRIC, 0))
        if not mirrored or not found.was_resumed or run.data.tags.get("journal") != found.journal:
            return False
        history = self.client.get_metric_history(run.info.run_id, record.CURSOR_METRIC)
        newest = max(history, key=lambda point: point.step)
        return bool(newest.timestamp != found.time_of(mirrored))

    def _is_former(self, run: "Run", found: Record) -> bool:
        """Of the same trial in the same results folder, but of another journal, as after --force;
        other people's runs are left alone.
        """
        tags = run.data.tags
        ours = (
            tags["folder"] == self.folder
            if "folder" in tags
            else tags.get("run_dir") == str(found.run_dir)
        )
        return ours and tags.get("journal") != found.journal

    def _one_of(self, runs: "list[Run]", journals: set[str]) -> "Run | None":
        """The run of each journal that holds most; its doubles, which a killed mirror or server
        may leave, are deleted.
        """
        kept = None
        for journal in journals:
            same = [run for run in runs if run.data.tags.get("journal") == journal]
            same.sort(
                key=lambda run: (
                    run.data.metrics.get(record.CURSOR_METRIC, 0),
                    len(run.data.params),
                    run.info.run_id,
                )
            )
            for double in same[:-1]:
                self.client.delete_run(double.info.run_id)
            kept = same[-1] if same else kept
        return kept

    def _create(self, found: Record) -> "Run":
        self.pending.begin(found.trial_id)
        tags = {**found.tags, "folder": self.folder}
        return self.client.create_run(
            self.experiment, start_time=found.start, tags=tags, run_name=found.name
        )

    def attach_weights(self, run: "Run", run_dir: Path) -> bool:
        """By `rm.export` in a process of its own, as this one imports no torch; whether that
        succeeded.
        """
        weights = Path(self.scratch.name) / f"{run_dir.name}.pt"
        exported = subprocess.run(
            module_command("rm.export", str(run_dir), str(weights)),
            env=child_environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        if exported.returncode:
            reason = (exported.stderr.strip() or "no message").splitlines()[-1]
            self.failures.append((run_dir, TrackingError(reason)))
            return False
        self.client.log_artifact(run.info.run_id, str(weights), "weights")
        self.client.set_tag(run.info.run_id, "weights", f"weights/{weights.name}")
        weights.unlink()
        return True
