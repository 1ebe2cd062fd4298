"""The seam for tasks: a second one, defined in tests/support/rm/pairs.py, hangs on the trainer as
classification does; and a network with several heads.
"""

import json
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from rm.methods.baseline import Baseline
from rm.rundir import checkpoint
from rm.rundir.journal import Journal
from rm.rundir.result import result_of
from rm.schedules import Progress
from rm.tasks.classification import Classification
from rm.train import Interrupted, train
from rm.trainer import Trainer
from rm.trial import parse_trial
from tests.support.rm import pairs
from tests.support.rm.pairs import Pairs
from tests.support.trials import ROOT, deterministic, write_trial

CPU = torch.device("cpu")


@pytest.fixture
def trial(tiny):
    """Three epochs of three steps."""
    tiny["train"] |= {"keep_best": True, "evaluate_every": 2}
    return parse_trial(tiny)


def run(trial, folder, stop_before=None):
    """Train Pairs in a folder, resuming where it was left; stopped before a step if asked."""
    folder.mkdir(exist_ok=True)
    trainer = Trainer(trial, CPU, task=Pairs())
    left = iter(range(10**6 if stop_before is None else stop_before))
    with Journal(folder / "journal.jsonl") as journal:
        saved = checkpoint.load(folder, CPU)
        train(trainer, folder, journal, lambda: next(left, None) is None, 1e9, saved)
    return trainer


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


@pytest.mark.parametrize("stop", range(1, 9))
def test_another_task_resumes_bit_for_bit(trial, tmp_path, stop):
    whole = run(trial, tmp_path / "whole")
    with pytest.raises(Interrupted):
        run(trial, tmp_path / "stopped", stop)
    resumed = run(trial, tmp_path / "stopped")
    assert deterministic(tmp_path / "whole") == deterministic(tmp_path / "stopped")
    assert equal(whole.task.state_dict(), resumed.task.state_dict())
    assert equal(whole.best_weights, resumed.best_weights)
    assert int(resumed.task.steps_seen) == 9
    assert result_of(whole, {})["metrics"] == result_of(resumed, {})["metrics"]


def test_what_a_task_is_told_and_what_it_reports(trial, tmp_path):
    trainer = run(trial, tmp_path)
    assert trainer.task.progress == [number / 9 for number in range(9)]
    assert "test_order" not in trainer.epochs[0], "evaluated every other epoch, and at the end"
    values = {epoch["epoch"]: epoch["test_order"] for epoch in trainer.epochs[1:]}
    metrics = result_of(trainer, {})["metrics"]
    assert metrics["best_order"] == max(values.values()), "larger is better"
    assert metrics["best_epoch"] == max(values, key=values.get)
    assert set(trainer.best_weights) == {"weight", "bias"}


def test_groups_have_learning_rates_of_their_own_and_frozen_parts_none(trial):
    trainer = Trainer(trial, CPU, task=Pairs())
    frozen = [p.clone() for p in trainer.task.momentum.parameters()]
    for _ in range(3):
        trainer.train_step()
    first, second, third = trainer.optimizer.param_groups
    assert third["params"] == []
    assert first["lr"] == pytest.approx(0.05 / 2), "the trial's, in its warmup epoch"
    assert second["lr"] == pytest.approx(0.05 * (1 - 2 / 9) * 0.1)
    unused = Pairs().unused.state_dict()
    assert equal(dict(trainer.task.unused.state_dict()), dict(unused)), "no zero gradients"
    moved = list(trainer.task.momentum.parameters())
    assert not any(torch.equal(a, b) for a, b in zip(frozen, moved, strict=True)), "its own doing"


@pytest.mark.cluster
def test_two_processes_train_and_evaluate_another_task_as_one_does(tiny, tmp_path):
    path = write_trial(tmp_path / "two", tiny)
    one = run(parse_trial(tiny), tmp_path / "one")
    words = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    environment["CUDA_VISIBLE_DEVICES"] = ""
    done = subprocess.run(
        [sys.executable, *words, pairs.__file__, str(path), str(tmp_path / "two")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    state, epochs = json.loads((tmp_path / "two" / "state.json").read_text())
    for name, value in one.task.state_dict().items():
        assert torch.allclose(torch.tensor(state[name]), value, atol=1e-5), name
    for theirs, ours in zip(epochs, one.epochs, strict=True):
        for name in ("train_loss", "norm", "test_order"):
            assert theirs[name] == pytest.approx(ours[name], abs=1e-4)


class _TwoHeads(nn.Module):
    """In evaluation a mapping of heads, the primary one first."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, images):
        logits = self.backbone(images)
        return logits if self.training else {"mix_k": logits, "one_k": -logits}


def test_further_heads_are_recorded_beside_the_primary_one(tiny, monkeypatch):
    plain = Trainer(parse_trial(tiny | {"method": {"name": "baseline"}}), CPU)
    monkeypatch.setattr(Baseline, "wrap_model", lambda self, backbone: _TwoHeads(backbone))
    trial = parse_trial(tiny | {"method": {"name": "baseline"}})
    both = Trainer(trial, CPU, task=Classification(trial, CPU))
    one, two = plain.evaluate(), both.evaluate()
    other = two.pop("test_top1_error.one_k")
    assert two == one
    assert other != one["test_top1_error"]
    both.options = trial.train
    for _ in range(both.steps_per_epoch):
        both.train_step()
    both.end_epoch()
    metrics = result_of(both, {})["metrics"]
    assert {"best_top1_error", "last_top1_error.one_k"} <= set(metrics)
    assert "head.weight" in both.task.deployed()


def test_a_schedule_may_change_within_an_epoch(trial):
    trainer = Trainer(trial, CPU, task=Pairs())
    trainer.schedule = lambda at: at.fraction
    rates = []
    for _ in range(3):
        trainer.train_step()
        rates.append(trainer.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.0, 0.05 / 9, 0.05 * 2 / 9])
    assert trainer.position == Progress(1, 3, 2, 3)
