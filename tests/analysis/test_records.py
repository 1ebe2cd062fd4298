"""Reading a real sqlite MLflow store, and the ways in which a store can be absent."""

import time

import pandas as pd
import pytest

from analysis.records import address, load
from analysis.records import store as reader
from analysis.records.cache import Cache
from analysis.records.load import COLUMNS, EXPERIMENT, RecordsError, load_curves, load_records
from tests.support.analysis.samples import RESULTS, fake_curve, fake_records, rows_spec


@pytest.fixture
def trials():
    return [trial for cell in rows_spec().cells for trial in cell.trials]


def test_every_record_comes_back_as_it_was_logged(store, trials):
    found = load_records([trial.id for trial in trials], store).set_index("trial_id")
    logged = fake_records(rows_spec()).set_index("trial_id")
    assert sorted(found.index) == sorted(logged.index)
    for trial in trials:
        row = found.loc[trial.id]
        assert (row["status"], row["seed"], row["host"]) == ("FINISHED", trial.seed, "node-07")
        assert row["best_top1_error"] == logged.loc[trial.id, "best_top1_error"]
        assert (row["train_seconds"], row["link"]) == (12.5, None)
        assert row["ended"].endswith("+00:00")


def test_only_the_wanted_trials_are_read(store, trials):
    found = load_records([trials[0].id, "no such id"], store)
    assert list(found["trial_id"]) == [trials[0].id]
    assert list(found.columns) == [*COLUMNS, *sorted(RESULTS)]


def test_curves_come_epoch_by_epoch(store, trials):
    found = load_records([trials[0].id, trials[1].id], store)
    curves = load_curves(list(found["run_id"]), "test_top1_error", store)
    for run_id, trial_id in zip(found["run_id"], found["trial_id"], strict=True):
        mine = curves[curves["run_id"] == run_id]
        assert list(zip(mine["epoch"], mine["value"], strict=True)) == fake_curve(trial_id, 5)


def test_a_finished_run_is_preferred_to_a_later_broken_one(store):
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=store)
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    runs = []
    for start, status in ((1000, "FAILED"), (2000, "FINISHED"), (3000, "KILLED")):
        run = client.create_run(
            experiment, start_time=start, tags={"trial_id": "thrice", "seed": "0"}
        )
        client.set_terminated(run.info.run_id, status)
        runs.append(run.info.run_id)
    assert list(load_records(["thrice"], store)["run_id"]) == [runs[1]]


@pytest.mark.parametrize("kind", ["sqlite", "empty sqlite", "folder"])
def test_a_store_that_is_not_there_is_no_error_and_is_not_made(tmp_path, kind):
    place = tmp_path / ("mlruns" if kind == "folder" else "mlflow.db")
    if kind == "empty sqlite":
        place.touch()
    before = sorted(tmp_path.iterdir())
    uri = place.as_uri() if kind == "folder" else f"sqlite:///{place}"
    assert load_records(["a"], uri).empty
    assert load_curves(["a"], "test_top1_error", uri).empty
    assert sorted(tmp_path.iterdir()) == before
    assert kind != "empty sqlite" or place.stat().st_size == 0


def test_a_file_that_is_no_database_is_named(tmp_path):
    (tmp_path / "mlflow.db").write_text(
        "this is not a database, but it is long enough to be looked at" * 20
    )
    with pytest.raises(RecordsError, match=r"mlflow\.db: the records cannot be read"):
        load_records(["a"], f"sqlite:///{tmp_path / 'mlflow.db'}")


def test_a_server_that_does_not_answer_is_named_without_its_password(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(RecordsError, match=r"127\.0\.0\.1:9") as caught:
        load_records(["a"], "http://someone:secret@127.0.0.1:9")
    assert "secret" not in str(caught.value)


def test_a_link_leads_to_the_run_without_a_password():
    found = address.link("https://me:secret@host:5000/ml/", "7", "abc")
    assert found == "https://host:5000/ml/#/experiments/7/runs/abc"
    assert address.link("sqlite:///mlflow.db", "7", "abc") is None


def start_run(store, trial, status="FINISHED", start=None):
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=store)
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    start = start or int(time.time() * 1000)
    run = client.create_run(
        experiment, start_time=start, tags={"trial_id": trial, "seed": "0"}
    ).info.run_id
    if status != "RUNNING":
        client.set_terminated(run, status, end_time=start + 1)
    return client, run


def test_an_unchanged_store_is_not_opened_again(store, trials, tmp_path, monkeypatch):
    cache, ids = Cache(tmp_path), [trial.id for trial in trials]
    first = load_records(ids, store, cache)
    monkeypatch.setattr(reader, "client", lambda uri: pytest.fail("the store was opened"))
    pd.testing.assert_frame_equal(load_records(ids, store, cache), first)


@pytest.mark.parametrize("quick", [True, False], ids=["small store", "large store"])
def test_what_has_changed_since_is_read_again(store, tmp_path, monkeypatch, quick):
    monkeypatch.setattr(load, "_QUICK", 1e9 if quick else 0.0)
    cache, ids = (
        Cache(tmp_path),
        [f"{quick} {name}" for name in ("running", "new", "late", "again")],
    )
    client, running = start_run(store, ids[0], "RUNNING")
    _, former = start_run(store, ids[3])
    assert set(load_records(ids, store, cache)["status"]) == {"RUNNING", "FINISHED"}
    client.set_terminated(running, "FAILED")
    start_run(store, ids[1])
    start_run(store, ids[2], start=1_000_000)  # mirrored long after it ended
    client.delete_run(former)
    _, latter = start_run(store, ids[3])
    found = load_records(ids, store, cache).set_index("trial_id")
    assert dict(found["status"]) == {
        ids[0]: "FAILED",
        ids[1]: "FINISHED",
        ids[2]: "FINISHED",
        ids[3]: "FINISHED",
    }
    assert found.loc[ids[3], "run_id"] == latter
    pd.testing.assert_frame_equal(found, load_records(ids, store).set_index("trial_id"))


def test_a_deleted_run_is_gone_at_the_next_complete_reading(store, tmp_path, monkeypatch):
    monkeypatch.setattr(load, "_QUICK", 0.0)
    cache = Cache(tmp_path)
    client, run = start_run(store, "to be deleted")
    assert len(load_records(["to be deleted"], store, cache)) == 1
    client.delete_run(run)
    assert load_records(["to be deleted"], store, cache, fresh=True).empty


def test_a_broken_cache_is_read_anew(store, trials, tmp_path):
    cache, ids = Cache(tmp_path), [trials[0].id]
    load_records(ids, store, cache)
    for file in tmp_path.iterdir():
        file.write_text("{")
    assert len(load_records(ids, store, cache)) == 1


def test_curves_of_finished_runs_are_read_once(store, trials, tmp_path, monkeypatch):
    cache = Cache(tmp_path)
    runs = list(load_records([trials[0].id, trials[1].id], store)["run_id"])
    finished = {runs[0]}.__contains__
    first = load_curves(runs, "test_top1_error", store, cache, finished)
    asked = []
    histories = reader.histories
    monkeypatch.setattr(
        reader,
        "histories",
        lambda uri, ids, metric: asked.extend(ids) or histories(uri, ids, metric),
    )
    pd.testing.assert_frame_equal(
        load_curves(runs, "test_top1_error", store, cache, finished), first
    )
    assert asked == [runs[1]]
