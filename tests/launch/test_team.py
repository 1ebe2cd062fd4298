"""Several processes and one trial: what follows from their answers, and who writes down that it
failed.
"""

import json

import pytest

from launch.runs.resources import keep
from launch.runs.rundir import RunDir
from launch.spec.resources import Resources
from launch.worker import distributed, worker
from launch.worker.process_group import WorkerLost, combine
from tests.support.trials import write_trial

FINISHED = {"outcome": "finished", "error": None}
STOPPED = {"outcome": "interrupted", "error": "stopped in epoch 2"}
RAISED = {"outcome": "failed", "error": "ValueError: no", "lost_peer": False}
ALONE = {
    "outcome": "failed",
    "error": "RuntimeError: Connection closed by peer",
    "lost_peer": True,
}
KILLED = {"outcome": "lost", "error": "process 1 ended with SIGKILL"}


def answers(*of_ranks):
    return [{"rank": rank, **answer} for rank, answer in of_ranks]


def test_the_first_process_speaks_for_all():
    assert combine(answers((1, FINISHED), (0, FINISHED)), False)["outcome"] == "finished"
    assert combine(answers((0, STOPPED), (1, STOPPED)), True)["error"] == "stopped in epoch 2"


def test_what_one_raised_comes_before_what_the_others_made_of_it():
    assert (
        combine(answers((0, ALONE), (2, ALONE), (1, RAISED)), False)["error"] == "ValueError: no"
    )
    assert combine(answers((1, KILLED), (0, RAISED)), False)["error"] == "ValueError: no"


def test_one_that_is_killed_is_no_failure_of_the_trial():
    with pytest.raises(WorkerLost, match="process 1 ended with SIGKILL"):
        combine(answers((1, KILLED), (0, ALONE)), False)
    with pytest.raises(WorkerLost, match="Connection closed by peer"):
        combine(answers((0, ALONE)), False)
    assert combine(answers((1, KILLED), (0, ALONE)), True)["outcome"] == "interrupted"


@pytest.fixture
def by_two(tmp_path, tiny, monkeypatch):
    """The run directory of a trial that two processes train, one thread each."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("RM_THREADS", "1")
    tiny["train"] |= {"batch_norm_groups": 2}
    tiny["optimizer"]["lr"] = 1e30
    write_trial(tmp_path / "run", tiny)
    keep(tmp_path / "run", Resources(1, 2))
    return tmp_path / "run"


@pytest.mark.cluster
def test_a_trial_that_raises_is_written_down_once(by_two):
    """The loss is no number in either process; both raise, and the first one keeps the journal."""
    answer = worker.run_one(by_two, lambda: False)
    assert answer["outcome"] == "failed"
    assert "the loss is not finite" in answer["error"]
    events, _ = RunDir(by_two).events()
    assert [event["event"] for event in events] == ["started", "failed"]
    assert "Diverged" in events[-1]["traceback"]
    assert not (by_two / "lease.json").exists()


def test_what_another_process_than_the_first_raised_is_written_down_too(by_two, monkeypatch):
    failed = {"rank": 1, **RAISED, "traceback": "Traceback: where"}
    monkeypatch.setattr(distributed, "train", lambda run_dir, count, stop: failed)
    assert worker.run_one(by_two, lambda: False) == {
        "outcome": "failed",
        "error": "ValueError: no",
    }
    last = json.loads((by_two / "journal.jsonl").read_text().splitlines()[-1])
    assert (last["event"], last["error"], last["traceback"]) == (
        "failed",
        "ValueError: no",
        "Traceback: where",
    )


def test_more_processes_than_this_job_has_gpus_for(by_two, monkeypatch):
    keep(by_two, Resources(1, 4))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    answer = worker.run_one(by_two, lambda: False)
    assert answer == {
        "outcome": "failed",
        "error": "4 processes cannot share the 2 GPUs that there are here",
    }
