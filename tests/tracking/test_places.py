"""Folders and files as people name and move them: nothing is refused, nothing ends elsewhere."""

import json
import os
import shutil

import pytest
from mlflow import MlflowClient

from launch.paths import sqlite_file, sqlite_uri
from launch.tracking import client, mirror
from tests.support.tracking.journals import FakeRun


@pytest.fixture(autouse=True)
def _forget_clients():
    yield
    client._connect.cache_clear()


def finished(results, number: int) -> FakeRun:
    run = FakeRun(results / "runs", number)
    run.train(1)
    run.finish()
    return run


def runs_of(results):
    store = MlflowClient(sqlite_uri(results / "mlflow.db"))
    experiment = store.get_experiment_by_name("recursivemix")
    return store, store.search_runs([experiment.experiment_id])


def test_a_spec_whose_name_mlflow_refuses_in_a_tag(results):
    run = finished(results, 0)
    names = ["two (1)", "two [1]", "ω~" * 120]
    lines = [{"spec": name, "profile": None, "row": name[:9], "label": name[:9]} for name in names]
    with (run.folder / "uses.jsonl").open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    assert mirror.mirror([run.folder]) == 1
    _, (found,) = runs_of(results)
    rows = {key: value for key, value in found.data.tags.items() if key.startswith("spec.")}
    assert {*rows.values()} >= {"two (1)", "two [1]"}, "each spec has a tag of its own"


def test_a_results_folder_that_was_moved(results, tmp_path, monkeypatch):
    first = finished(results, 0)
    mirror.mirror([first.folder])
    moved = tmp_path / "moved"
    shutil.move(results, moved)
    monkeypatch.setenv("RM_RESULTS_DIR", str(moved))
    client._connect.cache_clear()
    second = finished(moved, 1)
    assert mirror.mirror([moved / "runs" / first.trial_id, second.folder]) >= 1
    store, found = runs_of(moved)
    for run in found:
        assert (moved / "artifacts").as_uri() in run.info.artifact_uri
        assert "trial.json" in [file.path for file in store.list_artifacts(run.info.run_id)]
    assert len(found) == 2
    assert not results.exists(), "nothing is written to the old place"


def test_a_results_folder_with_signs_that_mean_something_in_an_address(tmp_path, monkeypatch):
    results = tmp_path / "what? 100% a%20b #1" / "results"
    monkeypatch.setenv("RM_RESULTS_DIR", str(results))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = finished(results, 0)
    assert mirror.mirror([run.folder]) == 1
    assert os.listdir(tmp_path) == ["what? 100% a%20b #1"]  # noqa: PTH208
    assert (results / "mlflow.db").is_file()
    store, (found,) = runs_of(results)
    assert "trial.json" in [file.path for file in store.list_artifacts(found.info.run_id)]
    assert sqlite_file(sqlite_uri(results / "mlflow.db")) == results / "mlflow.db"
