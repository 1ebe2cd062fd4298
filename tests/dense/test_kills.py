"""Every head is killed at every step, with one process and two, read by itself, one and three
others, and ends with the bits of an undisturbed training.

Minutes a head, so only where RM_TEST_KILLS is set: `RM_TEST_KILLS=1 python -m pytest tests/dense`.
"""

import json
import os
import signal
import time

import psutil
import pytest
import torch

from rm.rundir import weights
from rm.trainer import Trainer
from rm.trial import parse_trial
from tests.support.rm.dense import DETECTORS, HEADS, values
from tests.support.rm.dense_runs import Trainings
from tests.support.trials import PATIENCE, deterministic, write_trial

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif("RM_TEST_KILLS" not in os.environ, reason="RM_TEST_KILLS=1 runs it"),
]
KILLED = -signal.SIGKILL


@pytest.fixture(scope="module")
def trainings():
    with Trainings() as trainings:
        yield trainings


def six_steps(folder, head, sections=None, **train):
    """Write a trial of two epochs of three steps."""
    trial = values(head, **sections or {})
    trial["train"] |= train
    if head in DETECTORS:
        trial["dataset"] |= {"limit": 5, "test_limit": 1}
    write_trial(folder, trial)
    return folder


def outcome(folder):
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return deterministic(folder), result["weights"]


@pytest.mark.parametrize("head", HEADS)
def test_killed_at_every_step(head, trainings, tmp_path):
    whole, killed = (six_steps(tmp_path / name, head) for name in ("whole", "killed"))
    assert trainings.train(whole) == [0]
    for kill in ("1,1", "1,2", "2,0", "2,1", "2,2"):
        assert trainings.train(killed, kill) == [KILLED]
    assert trainings.train(killed, readers=1) == [0]
    assert outcome(killed) == outcome(whole)


@pytest.mark.parametrize("head", HEADS)
def test_killed_with_two_processes(head, trainings, tmp_path):
    """Each has two pictures: batch norm of one region of one picture has nothing to go by."""
    train = {"batch_norm_groups": 2, "batch_size": 4}
    whole, killed = (six_steps(tmp_path / name, head, **train) for name in ("whole", "killed"))
    assert trainings.train(whole, processes=2) == [0, 0]
    for kill, readers in (("1,1", 1), ("2,1", 3)):
        first, second = trainings.train(killed, kill, 2, readers)
        assert first == KILLED
        assert second != 0
    assert trainings.train(killed, processes=2) == [0, 0]
    assert outcome(killed) == outcome(whole)


@pytest.mark.parametrize("head", ["atss", "gfl"])
def test_two_processes_lose_what_one_does(head, trainings, tmp_path):
    """They normalise over all pictures, of which each process has a half. (GFL clamps its divisor,
    the mean of the processes', at 1; a network that has learnt nothing meets that, so this one
    starts as if it had.)
    """
    state = Trainer(parse_trial(values(head)), torch.device("cpu")).task.deployed()
    state[f"bbox_head.{head}_cls.bias"].zero_()
    file = tmp_path / "learnt.pt"
    init = {"file": str(file), "sha256": weights.save(file, state), "part": "model"}
    losses = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        six_steps(folder, head, {"init": init}, batch_size=4, epochs=1)
        assert trainings.train(folder, processes=processes) == [0] * processes
        losses.append(outcome(folder)[0][0]["train_loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_two_processes_add_up_what_one_does(trainings, tmp_path):
    """Four parts of a batch in one process are two in each of two."""
    sections = {
        "head": {**values("upernet")["head"], "dropout": 0.0},
        "task": {"name": "segmentation", "steps": 3, "micro_batches": 4},
        "train": {"batch_size": 8, "epochs": 1, "batch_norm_groups": 4},
    }
    losses = []
    for processes in (1, 2):
        folder = six_steps(tmp_path / str(processes), "upernet", sections)
        assert trainings.train(folder, processes=processes) == [0] * processes
        losses.append(outcome(folder)[0][0]["train_loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_no_reading_process_outlives_its_trainer(trainings, tmp_path):
    """Masks could fill the pipe of a reader whose trainer is killed."""
    trial = values("mask_rcnn")
    trial["dataset"] |= {"short_side": 480, "long_side": 640, "limit": None}
    write_trial(tmp_path, trial)
    (trainer,) = trainings.train(tmp_path, processes=0, readers=2)
    readers, deadline = [], time.monotonic() + PATIENCE
    while len(readers) < 2:
        assert time.monotonic() < deadline
        readers = psutil.Process(trainer).children()
        time.sleep(0.2)
    time.sleep(3)  # until batches are read ahead
    os.kill(trainer, signal.SIGKILL)
    assert not psutil.wait_procs(readers, timeout=10)[1]
