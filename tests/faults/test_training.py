"""What a training makes of damaged files of its own, of numbers that are none, and of settings
that cannot be meant.
"""

import json

import numpy as np
import pytest
import torch

from rm.datasets import Dataset, InMemorySplit
from rm.rundir.journal import read
from rm.tasks.classification import Classification
from rm.train import Diverged, Interrupted, fit
from rm.trainer import Trainer
from rm.trial import TrialError, load_trial, parse_trial
from tests.support.trials import deterministic, write_trial

CPU = torch.device("cpu")


def test_a_last_step_that_diverges_is_not_reported(tmp_path, tiny):
    tiny["train"] = {"epochs": 1, "batch_size": 70}  # one step, of which the loss is finite
    tiny["optimizer"] = {"name": "sgd", "lr": 1e30}
    tiny["schedule"] = {"name": "constant"}
    with pytest.raises(Diverged, match=r"test_loss is nan after epoch 1 \(lr 1e\+30\)"):
        fit(load_trial(write_trial(tmp_path, tiny)), tmp_path)
    assert not (tmp_path / "result.json").exists()
    assert [event["event"] for event in read(tmp_path / "journal.jsonl")] == ["started", "failed"]


def stopped(folder, tiny, steps=12):
    trial, left = load_trial(write_trial(folder, tiny)), iter(range(steps))
    with pytest.raises(Interrupted):
        fit(trial, folder, stop=lambda: next(left, None) is None, checkpoint_seconds=0)
    return trial


@pytest.mark.parametrize("names", [("checkpoint.pt",), ("checkpoint.pt", "checkpoint.prev.pt")])
def test_damaged_checkpoints_are_said(tmp_path, tiny, names, capfd):
    fit(load_trial(write_trial(tmp_path / "whole", tiny)), tmp_path / "whole")
    trial = stopped(tmp_path / "run", tiny)
    for name in names:
        path = tmp_path / "run" / name
        path.write_bytes(path.read_bytes()[:-40])
    fit(trial, tmp_path / "run")
    whence = "the one before" if len(names) == 1 else "the start"
    said = f"{' and '.join(names)} cannot be read: resumes from {whence}"
    assert said in capfd.readouterr().err
    again = [event for event in read(tmp_path / "run" / "journal.jsonl") if "damaged" in event]
    assert [event["damaged"] for event in again] == [list(names)]
    assert deterministic(tmp_path / "run") == deterministic(tmp_path / "whole")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"id": 1'])
def test_a_damaged_result_is_derived_again_from_the_checkpoint(tmp_path, tiny, content):
    trial = load_trial(write_trial(tmp_path, tiny))
    result = fit(trial, tmp_path)
    (tmp_path / "result.json").write_text(content)
    assert fit(trial, tmp_path) == result
    assert json.loads((tmp_path / "result.json").read_text()) == result


@pytest.mark.parametrize("asked", ["5m", "-1", "nan", ""])
def test_a_time_between_checkpoints_that_is_none_is_named(tmp_path, tiny, monkeypatch, asked):
    monkeypatch.setenv("RM_CHECKPOINT_SECONDS", asked)
    with pytest.raises(TrialError, match="RM_CHECKPOINT_SECONDS must be a number of seconds"):
        fit(load_trial(write_trial(tmp_path, tiny)), tmp_path)


def images(count, size, classes):
    pixels = torch.from_numpy(
        np.random.default_rng(0).integers(0, 256, (count, size, size, 1), dtype=np.uint8)
    )
    split = InMemorySplit(pixels, torch.arange(count) % classes)
    return Dataset(split, split, classes, (0.5,), (0.5,), padding=0, flip=False)


def test_smoothing_with_one_class_is_refused(tiny):
    tiny["train"] |= {"label_smoothing": 0.1}
    trial = parse_trial(tiny)
    with pytest.raises(TrialError, match="label_smoothing moves mass to other classes"):
        Classification(trial, CPU, data=images(8, 16, classes=1))


def test_a_last_batch_of_one_pixel_is_named(tiny):
    tiny["train"] = {"epochs": 1, "batch_size": 4}
    tiny["method"] = {"name": "baseline"}
    trial = parse_trial(tiny)
    trainer = Trainer(trial, CPU, task=Classification(trial, CPU, data=images(5, 4, classes=2)))
    trainer.train_step()
    with pytest.raises(TrialError, match="batch_size that leaves no rest of one image, of 5"):
        trainer.train_step()
