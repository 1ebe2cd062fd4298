"""Batches that a GPU makes ahead, of pictures that the trainer or other processes read."""

import pytest
import torch

from rm.input import ahead
from tests.support.rm.dense import values
from tests.support.rm.training import assert_equal_runs, train


@pytest.mark.parametrize("readers", [0, 1])
@pytest.mark.parametrize("head", ["pspnet", "atss"])
def test_a_training_keeps_its_bits(head, readers, tmp_path, monkeypatch):
    monkeypatch.setenv("RM_LOADER_WORKERS", str(readers))
    train(values(head), tmp_path / "when asked")
    monkeypatch.setattr(ahead, "stream_beside", lambda device: torch.cpu.Stream())
    train(values(head), tmp_path / "ahead", stop_before=(2,))
    assert_equal_runs(tmp_path / "when asked", tmp_path / "ahead")
