"""Trials that start from other trials, really trained by the local backend."""

import os
import signal

import pytest

from launch.spec.load import load_spec
from tests.support import inprocess
from tests.support.commands import command, journal, mlflow_records, run, running_pids, wait_for
from tests.support.commands import trials as trials_of
from tests.support.rm.training import assert_equal_runs

SPEC = """
    title: "Pre-training and fine-tuning"
    seeds: [0]
    trial:
      dataset: {name: digits, size: 16, limit: 60, test_limit: 40, classes: [5, 6, 7]}
      backbone: {name: resnet8, width: 8}
      train: {epochs: 2, batch_size: 16}
      optimizer: {name: sgd, lr: 0.05}
      schedule: constant
      method: baseline
    rows:
      - row: tuned
        init: {trial: {dataset.classes: [0, 1, 2, 3], train.epochs: PARENT_EPOCHS}}
      - {row: linear, init: {from: child, row: tuned}, freeze: backbone}
"""
WORDS = ("--workers", "2")


@pytest.fixture
def spec(write_spec):
    return lambda epochs=2, **more: write_spec(
        SPEC, "child.yaml", PARENT_EPOCHS=str(epochs), **more
    )


def ids(path):
    """(pre-training, tuned, linear): a trial, its child, and the child of that."""
    tuned, linear = load_spec(path).cells
    return tuned.parents[0].trial.id, tuned.trials[0].id, linear.trials[0].id


@pytest.mark.usefixtures("stored")
@pytest.mark.cluster
def test_parents_are_trained_first_and_all_of_them_stand_in_mlflow(spec, results):
    path = spec()
    code, out, err = run(path, *WORDS, "--json")
    assert code == 0, err
    assert [trial["state"] for trial in trials_of(out)] == ["finished"] * 3
    parent, tuned, linear = ids(path)
    records = mlflow_records(results)
    assert set(records) == {parent, tuned, linear}
    runs = results / "runs"
    ends = [(runs / name / "result.json").stat().st_mtime_ns for name in (parent, tuned, linear)]
    assert ends == sorted(ends)
    assert (runs / tuned / "weights.pt").exists()
    code, out, _ = run("plan", path, "--json")
    assert [trial.get("parents") for trial in trials_of(out)] == [[parent], [tuned], None]


@pytest.mark.cluster
def test_a_failed_parent_blocks_its_children_and_a_good_one_frees_them(spec, results):
    path = spec(**{"dataset.classes: [0": "optimizer.lr: 1.0e+30, dataset.classes: [0"})
    code, out, err = run(path, *WORDS, "--json")
    assert code == 1, err
    states = {trial["row"]: trial["state"] for trial in trials_of(out)}
    assert states == {"init of tuned": "failed", "tuned": "blocked", "linear": "blocked"}
    reason = trials_of(out)[0]["reason"]
    assert "it starts from child · init of tuned · seed 0" in reason
    assert "which failed" in reason


@pytest.mark.cluster
def test_a_parent_killed_and_resumed_leaves_its_child_bit_identical(spec, results, tmp_path):
    path = spec(epochs=6)
    environment = {"RM_CHECKPOINT_SECONDS": "0"}
    parent, tuned, linear = ids(path)
    # Two workers have one thread each, as the reference has.
    inprocess.train(path, tmp_path / "undisturbed")
    process = command(path, "--workers", "2", environment=environment)

    def is_midway():
        folder = results / "runs" / parent
        return folder.exists() and "checkpoint" in journal(results, parent)

    wait_for(is_midway, process)
    pids = running_pids(results)
    process.kill()
    process.wait()
    os.kill(pids[parent], signal.SIGKILL)
    assert run(path, "--workers", "2", environment=environment)[0] == 0
    assert "resumed" in journal(results, parent)
    for name in (parent, tuned, linear):
        assert_equal_runs(results / "runs" / name, tmp_path / "undisturbed" / "runs" / name)
