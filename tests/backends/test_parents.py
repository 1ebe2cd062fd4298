"""Trials that start from other trials: parents first, other work meanwhile, and nothing of a child
whose parent failed; on every backend that stays.
"""

import os
import signal

from launch.runs.rundir import RunDir
from launch.spec.load import load_spec
from tests.support.trials import PATIENCE

LONG = {"epochs: 2": "epochs: 60", "[0, 1]": "[0]", "    Baseline: baseline\n": ""}
LONG |= {'claims: ["RM < Baseline"]': ""}
SHORT = {"[0, 1]": "[0]"}
INIT = "  schedule: {name: cosine}\n  init: {from: small, row: RM}\n"


def child_of(write_spec, **more):
    """A spec of two trials that start from the one trial of small.yaml."""
    start = {"  schedule: {name: cosine}\n": INIT}
    return write_spec(name="finetuned.yaml", **SHORT, **start, **more)


def filler(write_spec):
    return write_spec(name="filler.yaml", **{"[0, 1]": "[5, 6]"})


def time_of(backend, trial, event):
    events, _ = RunDir(backend.results / "runs" / trial.id).events()
    return next(each["time"] for each in events if each["event"] == event)


def test_parents_first_while_other_work_fills_the_waiting(backend, write_spec):
    """The parent is killed in mid-training and resumed; its children are named alone, and planned
    with it.
    """
    (parent,) = load_spec(write_spec(**LONG)).trials
    children = load_spec(path := child_of(write_spec)).trials
    fillers = load_spec(other := filler(write_spec)).trials
    seconds = {"RM_CHECKPOINT_SECONDS": "0.1"}
    process = backend.start(path, other, "--workers", 2, environment=seconds)
    backend.wait(
        lambda: parent.id in backend.leased() and "checkpoint" in backend.events(parent.id),
        process,
    )
    os.kill(backend.leased()[parent.id], signal.SIGKILL)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    assert backend.events(parent.id).count("resumed") == 1
    finished = time_of(backend, parent, "finished")
    assert all(time_of(backend, each, "started") >= finished for each in children)
    assert any(time_of(backend, each, "started") < finished for each in fillers)


def test_children_of_a_failed_parent_are_blocked(backend, write_spec):
    (parent,) = load_spec(write_spec(**LONG, **{"lr: 0.05": "lr: 1.0e+30"})).trials
    children = load_spec(path := child_of(write_spec)).trials
    fillers = load_spec(other := filler(write_spec)).trials
    code, _, err = backend.run(path, other, "--workers", 2)
    assert code == 1, err
    assert f"it starts from trial {parent.id}, which is not trained" in err
    assert "2 blocked" in err
    assert backend.events(parent.id)[-1] == "failed"
    assert not any(backend.events(each.id) for each in children)
    assert all(backend.events(each.id)[-1] == "finished" for each in fillers)
