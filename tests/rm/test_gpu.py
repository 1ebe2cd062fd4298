"""What a GPU has to itself: a training that is interrupted there, two trials that share it, and
numbers that are those of a CPU.
"""

import json
import os
import subprocess
import sys

import pytest
import torch

from rm.input import ahead
from rm.trainer import Trainer
from rm.trial import parse_trial
from tests.support.rm.training import assert_equal_runs, train
from tests.support.trials import PATIENCE, ROOT, contrastive, write_trial

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
GPU = torch.device("cuda")


@pytest.mark.parametrize("cuda_graph", [False, True], ids=["eager", "graph"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_an_interrupted_run_on_a_gpu_ends_with_its_undisturbed_bits(
    tmp_path, tiny, precision, cuda_graph
):
    tiny["train"] |= {"precision": precision, "cuda_graph": cuda_graph}
    train(tiny, tmp_path / "undisturbed", device=GPU)
    train(tiny, tmp_path / "interrupted", stop_before=(4, 3, 5), device=GPU)
    assert_equal_runs(tmp_path / "undisturbed", tmp_path / "interrupted")


@pytest.mark.parametrize("cuda_graph", [False, True], ids=["eager", "graph"])
def test_a_gpu_resumes_a_resnet18_bit_for_bit(tmp_path, tiny, cuda_graph):
    """Of the size that is trained there, for which its libraries take other algorithms."""
    tiny["backbone"] = {"name": "resnet18"}
    tiny["dataset"] |= {"size": 32, "limit": 400}
    tiny["train"] = {"epochs": 2, "batch_size": 128, "precision": "bf16"}
    tiny["train"] |= {"cuda_graph": cuda_graph, "batch_norm_groups": 2}
    train(tiny, tmp_path / "undisturbed", device=GPU)
    train(tiny, tmp_path / "interrupted", stop_before=(3, 2), device=GPU)
    assert_equal_runs(tmp_path / "undisturbed", tmp_path / "interrupted")


@pytest.mark.parametrize("cuda_graph", [False, True], ids=["eager", "graph"])
@pytest.mark.parametrize("views", [False, True], ids=["supervised", "contrastive"])
def test_batches_made_ahead_have_the_bits_of_others(
    tmp_path, tiny, monkeypatch, views, cuda_graph
):
    """With maps large enough that a stream which did not wait would read what is not there yet."""
    tiny["dataset"] |= {"size": 64, "limit": 400}
    tiny["train"] |= {"epochs": 3, "batch_size": 64, "cuda_graph": cuda_graph and not views}
    trial = contrastive(tiny) if views else tiny
    train(trial, tmp_path / "ahead", device=GPU)
    monkeypatch.setattr(ahead, "stream_beside", lambda device: None)
    train(trial, tmp_path / "when asked", device=GPU)
    assert_equal_runs(tmp_path / "ahead", tmp_path / "when asked")


def test_a_gpu_has_the_losses_of_a_cpu(monkeypatch, tiny):
    """In fp32 without TF32; a ReLU at zero parts them in the end, after these steps not yet."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    runs = [Trainer(parse_trial(tiny), torch.device(name)) for name in ("cpu", "cuda")]
    for _ in range(4):
        cpu, gpu = (run.train_step() for run in runs)
        assert gpu.loss.item() == pytest.approx(cpu.loss.item(), rel=1e-4)


def test_two_trials_share_a_gpu(tmp_path, tiny):
    """As on a borrowed machine, by the local backend alone."""
    for seed in (0, 1):
        write_trial(tmp_path / "runs" / str(seed), {**tiny, "seed": seed})
    words = ["--trials-per-gpu", "2", "--deadline", "5"]
    done = subprocess.run(
        [sys.executable, "-m", "launch.backends.local", str(tmp_path / "runs"), *words],
        cwd=ROOT,
        env={**os.environ, "RM_TRACKING": "off"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for seed in (0, 1):
        events = (tmp_path / "runs" / str(seed) / "journal.jsonl").read_text().splitlines()
        assert json.loads(events[0])["device"].startswith("cuda")
        assert json.loads(events[-1])["event"] == "finished"
