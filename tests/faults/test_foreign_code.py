"""Child processes run the code of the checkout that planned the trial, wherever they start."""

import os
import select

import pytest

from launch import interpreter
from launch.backends.local.pool import WorkerProcess
from launch.worker.worker import run_one
from tests.support.trials import PATIENCE, ROOT


@pytest.fixture
def hostile(tmp_path, monkeypatch):
    """The current folder: another clone, with modules named as Python's own."""
    for package in ("rm", "launch"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("raise SystemExit('another clone')")
    for module in ("queue", "json", "selectors", "torch"):
        (tmp_path / f"{module}.py").write_text(f"raise SystemExit('another {module}')")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("path", ["", ":", f":{os.sep}nowhere:"])
def test_the_current_folder_shadows_nothing(hostile, monkeypatch, path):
    monkeypatch.setenv("PYTHONPATH", path)
    worker = WorkerProcess({"CUDA_VISIBLE_DEVICES": ""})
    worker.send(hostile / "none")
    assert select.select([worker], [], [], PATIENCE)[0]
    answers = list(worker.answers())
    how = worker.close()
    assert answers != [None], how
    assert answers[0]["outcome"] == "failed"
    assert "none" in answers[0]["error"]
    assert how.endswith("exit status 0")


def test_a_worker_of_another_checkout_trains_nothing(tmp_path, monkeypatch):
    other = tmp_path / "clone"
    other.mkdir()
    monkeypatch.setenv(interpreter.CHECKOUT, str(other))
    answer = run_one(tmp_path, lambda: False)
    assert answer["outcome"] == "failed"
    assert f"imports the code in {ROOT}; the trial was planned by {other}" in answer["error"]
    assert os.listdir(tmp_path) == ["clone"]  # noqa: PTH208
