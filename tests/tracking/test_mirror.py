"""What the mirror writes, seen through MLflow's client and read from its tables."""

import csv
import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient

from launch.runs.rundir import RunDir
from launch.tracking import client, mirror, record
from launch.tracking.cursor import SyncCursor
from tests.support.tracking.journals import FakeRun, assert_store_is_true, sqlite_rows
from tests.support.trials import PATIENCE, ROOT

pytestmark = pytest.mark.usefixtures("stored")


@pytest.fixture
def runs(results):
    return [FakeRun(results / "runs", number) for number in range(4)]


def folders(runs):
    return [run.folder for run in runs]


def client_and_runs(results):
    client = MlflowClient(f"sqlite:///{results / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("recursivemix").experiment_id
    return client, {run.data.tags["trial_id"]: run for run in client.search_runs([experiment])}


@pytest.mark.cluster
def test_only_what_is_new_is_sent_and_the_store_stays_true(runs, results, monkeypatch):
    runs[0].train(300)
    runs[0].finish()
    runs[1].train(3)
    runs[2].train(2)
    runs[2].fail()
    assert mirror.mirror(folders(runs)) == 4
    assert_store_is_true(sqlite_rows(results / "mlflow.db"), runs)

    sent = []
    batch, create = MlflowClient.log_batch, MlflowClient.create_run
    monkeypatch.setattr(
        MlflowClient, "log_batch", lambda *a, **k: sent.append(k) or batch(*a, **k)
    )
    monkeypatch.setattr(MlflowClient, "create_run", lambda *a, **k: pytest.fail("nothing is new"))
    assert mirror.mirror(folders(runs)) == 0
    assert mirror.mirror(folders(runs), full=True) == 4
    assert sent == []
    runs[1].train(1)
    runs[3].train(250)
    assert mirror.mirror(folders(runs)) == 2
    assert [len(call["metrics"]) for call in sent] == [7, 994, 756], (
        "7 metrics an epoch, whole epochs, full calls"
    )
    assert_store_is_true(sqlite_rows(results / "mlflow.db"), runs)
    monkeypatch.setattr(MlflowClient, "create_run", create)
    runs[1].resume(2)  # two epochs are journalled again, with other times and values
    assert mirror.mirror(folders(runs)) == 1
    assert_store_is_true(sqlite_rows(results / "mlflow.db"), runs)
    runs[3].resume(0)  # from its last epoch's end: nothing comes again
    runs[3].train(1)
    sent.clear()
    assert mirror.mirror(folders(runs)) == 1
    assert [len(call["metrics"]) for call in sent] == [7]
    assert_store_is_true(sqlite_rows(results / "mlflow.db"), runs)

    (results / "mlflow.db").unlink()  # while this process has it open
    (results / "mirrored.json").unlink()
    command = [sys.executable, "launch/run.py", "sync"]
    again = subprocess.run(
        command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, timeout=PATIENCE
    )
    assert again.returncode == 0, again.stderr
    assert "4 of 4 runs had something new" in again.stderr
    assert_store_is_true(sqlite_rows(results / "mlflow.db"), runs)


def test_states_are_shown_as_they_are(runs, results):
    """Killed, running again, failed with its reason, finished in the end."""
    run = runs[0]
    run.train(2)
    with RunDir(run.folder).lease():
        mirror.mirror(folders(runs))
        client, found = client_and_runs(results)
        assert found[run.trial_id].info.status == "RUNNING"
        assert found[runs[1].trial_id].info.status == "KILLED", (
            "started, and nobody is at it any more"
        )
    mirror.mirror(folders(runs))
    killed = client.get_run(found[run.trial_id].info.run_id)
    assert (killed.info.status, killed.info.end_time) == ("KILLED", round(run.clock * 1000))
    run.fail()
    mirror.mirror(folders(runs))
    failed = client.get_run(killed.info.run_id)
    assert (failed.info.status, failed.data.tags["error"]) == (
        "FAILED",
        "Diverged: the loss is not finite",
    )
    with RunDir(run.folder).lease():
        run.resume(0)
        mirror.mirror(folders(runs))
        assert client.get_run(killed.info.run_id).info.status == "RUNNING"
    run.finish()
    mirror.mirror(folders(runs))
    finished = client.get_run(killed.info.run_id)
    assert (finished.info.status, finished.info.end_time) == ("FINISHED", round(run.clock * 1000))
    assert "error" not in finished.data.tags
    assert_store_is_true(sqlite_rows(results / "mlflow.db"), runs)


def test_a_run_is_readable_and_has_its_artifacts(runs, results):
    run = runs[0]
    run.train(3)
    run.finish()
    run.use("fig5", "0.1", 0)
    run.use("table3", "smoke row", 0, profile="smoke")
    mirror.mirror(folders(runs))
    client, found = client_and_runs(results)
    mirrored = found[run.trial_id]
    assert mirrored.info.run_name == "table3 · ResNet-18 · + RM (ours) · seed 0"
    assert mirrored.data.params["method.alpha"] == "0.5"
    assert mirrored.data.params["schedule.milestones"] == "[100, 150]"
    specs = {key: value for key, value in mirrored.data.tags.items() if key.startswith("spec.")}
    assert specs == {
        "spec.table3": "ResNet-18 · + RM (ours)",
        "spec.fig5": "0.1",
        "spec.table3.smoke": "smoke row",
    }
    run.use("table4a", "unshared", 0)
    assert mirror.mirror(folders(runs)) == 1, "another use of a finished run is noticed"
    assert client.get_run(mirrored.info.run_id).data.tags["spec.table4a"] == "unshared"
    folder = Path(client.download_artifacts(mirrored.info.run_id, ""))
    assert json.loads((folder / "trial.json").read_text())["id"] == run.trial_id
    with (folder / "curve.csv").open() as file:
        curve = list(csv.DictReader(file))
    epochs = record.read(run.folder).curve
    assert [(int(line["epoch"]), float(line["test_top1_error"])) for line in curve] == [
        (epoch, event["test_top1_error"]) for epoch, event in epochs.items()
    ]


def test_force_replaces_only_what_is_ours(runs, results, tmp_path, monkeypatch):
    """Another journal of the same trial replaces the former run; another folder's run of it is
    left alone.
    """
    for run in runs:
        run.train(2)
        run.finish()
    mirror.mirror(folders(runs))
    client, before = client_and_runs(results)
    runs[0].folder.rename(tmp_path / "replaced")
    runs[0] = FakeRun(results / "runs", 0, begun=1_796_000_000.0)
    runs[0].train(1)
    mirror.mirror(folders(runs))
    assert_store_is_true(sqlite_rows(results / "mlflow.db"), runs)
    assert client.get_run(before[runs[0].trial_id].info.run_id).info.lifecycle_stage == "deleted"

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{results / 'mlflow.db'}")
    monkeypatch.setenv("RM_RESULTS_DIR", str(tmp_path / "colleague"))
    theirs = FakeRun(tmp_path / "colleague" / "runs", 1, begun=1_797_000_000.0)
    mirror.mirror([theirs.folder])
    both = [
        trial
        for trial in sqlite_rows(results / "mlflow.db").trials.values()
        if trial == theirs.trial_id
    ]
    assert len(both) == 2


def test_two_creations_of_one_run_end_as_one(runs, results):
    """What a mirror and its server, killed between a request and its answer, may leave: the fuller
    one stays.
    """
    runs[0].train(5)
    mirror.mirror(folders(runs))
    client, found = client_and_runs(results)
    full = found[runs[0].trial_id]
    tags = {key: full.data.tags[key] for key in ("trial_id", "journal", "folder")}
    client.create_run(full.info.experiment_id, tags=tags, run_name="double")
    runs[0].train(1)
    mirror.mirror(folders(runs))
    assert_store_is_true(sqlite_rows(results / "mlflow.db"), runs)
    assert client.get_run(full.info.run_id).info.lifecycle_stage == "active"

    client.create_run(full.info.experiment_id, tags=tags, run_name="late double")
    (results / ".mlflow.lock").write_text(
        runs[0].trial_id, encoding="utf-8"
    )  # a mirror died while it created this one
    runs[1].train(1)
    assert mirror.mirror(folders(runs)) == 1
    assert_store_is_true(sqlite_rows(results / "mlflow.db"), runs)


def test_a_spoilt_journal_is_named_and_the_others_are_mirrored(runs, results):
    for run in runs:
        run.train(2)
    with (runs[0].folder / "journal.jsonl").open("a") as file:
        file.write("{spoilt\n")
    with pytest.raises(
        mirror.TrackingError,
        match=rf"{runs[0].folder} could not be mirrored: .*journal.jsonl:4: not JSON",
    ):
        mirror.mirror(folders(runs))
    assert_store_is_true(sqlite_rows(results / "mlflow.db"), runs[1:])


def test_values_that_are_no_numbers_are_stored_once(runs, results):
    runs[0].train(1)
    runs[0].event("epoch", epoch=2, test_loss=float("nan"), train_loss=float("inf"))
    mirror.mirror(folders(runs))
    (results / "mirrored.json").unlink()
    runs[0].event("epoch", epoch=3, test_loss=1.0)
    mirror.mirror(folders(runs))
    client, found = client_and_runs(results)
    history = client.get_metric_history(found[runs[0].trial_id].info.run_id, "test_loss")
    assert [point.step for point in history] == [1, 2, 3]
    assert history[1].value != history[1].value


def test_a_restored_experiment_is_asked_for(runs, results):
    mirror.mirror(folders(runs))
    client, found = client_and_runs(results)
    client.delete_experiment(found[runs[0].trial_id].info.experiment_id)
    runs[0].train(1)
    with pytest.raises(
        mirror.TrackingError, match="is in MLflow's trash; take it out with `mlflow experiments"
    ):
        mirror.mirror(folders(runs))


def test_marks_of_finished_runs_cost_one_look_each(runs, results, monkeypatch):
    for run in runs:
        run.train(1)
        run.finish()
    mirror.mirror(folders(runs))
    looks = []
    stat = os.stat
    monkeypatch.setattr(
        os, "stat", lambda path, *a, **k: looks.append(path) or stat(path, *a, **k)
    )
    monkeypatch.setattr(
        RunDir, "state", lambda run_dir: pytest.fail("a finished run's journal is not read again")
    )
    assert SyncCursor.read().behind(folders(runs)) == []
    assert len([look for look in looks if str(look).startswith(str(results / "runs"))]) == len(
        runs
    )


def test_a_curve_is_looked_for_among_its_run_s_points_not_among_those_of_all_runs(results):
    """As the query of MLflow's `get_metric_history` is planned, in the report and behind MLflow's
    pages.
    """
    runs = [FakeRun(results / "runs", number) for number in range(20)]
    for run in runs:
        run.train(50)
        run.finish()
    mirror.mirror(folders(runs))
    query = (
        "select * from metrics where run_uuid = ? and key = ? order by timestamp, step, "
        "value "
        "limit -1 offset 0"
    )
    with closing(sqlite3.connect(results / "mlflow.db")) as database:
        plan = [
            row[-1]
            for row in database.execute(f"explain query plan {query}", ("a run", "a metric"))
        ]
    assert "(run_uuid=? AND key=?)" in plan[0], plan


def test_the_write_ahead_log_is_for_local_disks(runs, results, monkeypatch):
    monkeypatch.setattr(client, "_file_system", lambda folder: "nfs4")
    mirror.mirror(folders(runs))
    assert (results / "mlflow.db").read_bytes()[18:20] == b"\x01\x01", "a rollback journal"
