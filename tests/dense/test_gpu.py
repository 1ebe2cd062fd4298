"""Detection and segmentation on a GPU: what a CPU cannot show of them."""

import numpy as np
import pytest
import torch

from rm.train import Interrupted
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
def test_a_head_resumes_where_it_was(tmp_path, head):
    """Near an undisturbed training: kernels add up in any order there, so the last bits differ.
    Where regions are drawn among those that score best, another order of two of them shows the
    head others: on a CPU too, weights that differ by 1e-6 change such losses by 2 %.
    """
    whole = run(head, tmp_path / "whole", device=GPU)
    for stop in (1, 2):
        with pytest.raises(Interrupted):
            run(head, tmp_path / "stopped", stop, device=GPU)
    resumed = run(head, tmp_path / "stopped", device=GPU)
    near = 0.05 if head in ("mask_rcnn", "htc") else 1e-3
    for one, other in zip(whole.epochs, resumed.epochs, strict=True):
        assert other["train_loss"] == pytest.approx(one["train_loss"], rel=near)
