"""Detection and segmentation on a GPU: what a CPU cannot show of them."""

import numpy as np
import pytest
import torch

from rm.rundir import checkpoint
from rm.trainer import Trainer
from rm.trial import parse_trial
from tests.support.rm.dense import HEADS, run, values

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
GPU = torch.device("cuda")

DRAWS_NOTHING = ("atss", "gfl")
"""The others draw from the device's generator: which boxes are shown to the head, dropout."""


@pytest.mark.parametrize("head", HEADS)
def test_a_head_has_a_cpus_first_loss(monkeypatch, head):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    runs = [Trainer(parse_trial(values(head)), torch.device(name)) for name in ("cpu", "cuda")]
    cpu, gpu = (run.train_step().loss.item() for run in runs)
    for each in runs:
        each.close()
    assert gpu == pytest.approx(cpu, rel=1e-4 if head in DRAWS_NOTHING else 0.2)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("head", HEADS)
def test_a_head_trains_and_is_evaluated(tmp_path, head, precision):
    train = {"epochs": 2, "batch_size": 2, "evaluate_every": 2, "precision": precision}
    trainer = run(head, tmp_path, device=GPU, train=train)
    last = trainer.epochs[1]
    assert all(np.isfinite(last[f"test_{metric.name}"]) for metric in trainer.task.metrics())
    assert last["train_loss"] > 0


@pytest.mark.parametrize("head", HEADS)
def test_a_head_goes_on_as_it_would_have(tmp_path, head):
    """The step after a checkpoint, in the training that wrote it and in one that reads it: the
    same weights, regions and dropout. Later steps part, as backward passes add up in any order
    there, and another order of two regions that score alike shows the head others.
    """
    trial = parse_trial(values(head))
    whole, resumed = Trainer(trial, GPU), Trainer(trial, GPU)
    for _ in range(2):
        whole.train_step()
    checkpoint.save(tmp_path, whole.state_dict())
    expected = whole.train_step().loss.item()
    resumed.load_state_dict(checkpoint.load(tmp_path, GPU))
    found = resumed.train_step().loss.item()
    for each in (whole, resumed):
        each.close()
    assert found == pytest.approx(expected, rel=1e-5)
