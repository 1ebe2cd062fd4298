"""A warm worker by itself: what it answers, and that a request to cancel one trial leaves the
others alone.
"""

import json
import os
import subprocess
import sys
import time

import pytest

from launch.runs.rundir import RunDir
from tests.support.trials import PATIENCE, ROOT, deterministic, write_trial


@pytest.fixture
def worker():
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "RM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "launch.worker"],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        yield process
        process.stdin.close()
        assert process.wait(timeout=PATIENCE) == 0


def ask(worker, *run_dirs):
    worker.stdin.writelines(f"{run_dir}\n" for run_dir in run_dirs)
    worker.stdin.flush()


def answer(worker):
    found = json.loads(worker.stdout.readline())
    return found["outcome"], found["error"]


def events(run_dir):
    return [event["event"] for event in RunDir(run_dir).events()[0]]


@pytest.mark.cluster
def test_cancelling_one_trial_stops_it_alone(worker, tmp_path, tiny):
    long = {**tiny, "train": {**tiny["train"], "epochs": 150}}
    first, queued, last, undisturbed = (
        tmp_path / name for name in ("first", "queued", "last", "undisturbed")
    )
    for run_dir, trial in ((first, long), (queued, long), (last, tiny), (undisturbed, long)):
        write_trial(run_dir, trial)
    ask(worker, first, queued, last)
    RunDir(queued).request_cancel()
    deadline = time.monotonic() + PATIENCE
    while events(first).count("epoch") < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    RunDir(first).request_cancel()
    assert answer(worker) == ("interrupted", "cancelled")
    assert answer(worker) == ("interrupted", "cancelled")
    assert answer(worker) == ("finished", None)
    assert RunDir(first).state() == "interrupted"
    assert events(first)[-2:] == ["checkpoint", "interrupted"]
    assert events(queued) == [], "it was not even started"
    assert not (first / "lease.json").exists()

    ask(worker, first)
    assert answer(worker) == ("interrupted", "cancelled"), (
        "a requeue of the scheduler does not revive it"
    )
    RunDir(first).clear_cancel()
    ask(worker, first, undisturbed)
    assert [answer(worker) for _ in range(2)] == [("finished", None)] * 2
    assert "resumed" in events(first)
    assert deterministic(first) == deterministic(undisturbed)


def test_a_finished_trial_stays_finished_whatever_is_asked(worker, tmp_path, tiny):
    write_trial(tmp_path / "run", tiny)
    ask(worker, tmp_path / "run")
    assert answer(worker) == ("finished", None)
    RunDir(tmp_path / "run").request_cancel()
    ask(worker, tmp_path / "run")
    assert answer(worker) == ("finished", None)
