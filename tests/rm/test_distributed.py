"""Two real processes over gloo: equal to one process with grouped batch norm; killed and resumed, equal to undisturbed."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from rm import checkpoint
from rm.distributed import Processes
from rm.journal import read
from rm.options import TrialError, parse_trial
from rm.run import Run
from rm.train import fit
from tests.conftest import ROOT, deterministic, write_trial

CPU = torch.device("cpu")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture
def shared(tiny):
    """20 steps of RecursiveMix with batch 16 in two groups, and a test split that two processes cannot share evenly."""
    tiny["train"] |= {"epochs": 4, "batch_norm_groups": 2}
    tiny["dataset"] |= {"limit": 80, "test_limit": 61}
    return tiny


def two_processes(path, folder, *options):
    words = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        "0",
        "--standalone",
    ]
    return [*words, "-m", "rm.train", str(path), str(folder), *options]


@pytest.mark.slow
def test_two_processes_equal_one_with_two_groups_and_survive_a_kill(shared, tmp_path):
    path = write_trial(tmp_path / "one", shared)
    fit(parse_trial(shared), tmp_path / "one")
    done = subprocess.run(
        two_processes(path, tmp_path / "two"), env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["best_epoch"] >= 1
    one, two = (deterministic(tmp_path / name) for name in ("one", "two"))
    for ours, theirs in zip(one, two, strict=True):
        assert theirs.pop("test_top1_error") == pytest.approx(ours.pop("test_top1_error"), abs=100 / 61 + 1e-6)
        assert theirs.pop("test_top5_error") == pytest.approx(ours.pop("test_top5_error"), abs=100 / 61 + 1e-6)
        assert theirs.pop("train_top1_error") == pytest.approx(ours.pop("train_top1_error"), abs=100 / 80 + 1e-6)
        assert theirs == pytest.approx(ours, rel=2e-4), "losses, mean areas and learning rates"
    weights = [checkpoint.load(tmp_path / name, CPU)["model"] for name in ("one", "two")]
    for name in weights[0]:
        assert torch.allclose(weights[0][name].double(), weights[1][name].double(), atol=2e-4), name

    killed = tmp_path / "killed"
    with subprocess.Popen(
        two_processes(path, killed, "--checkpoint-seconds", "0"), env=ENVIRONMENT, start_new_session=True
    ) as process:
        deadline = time.monotonic() + 60
        while sum(event["event"] == "checkpoint" for event in read(killed / "journal.jsonl")) < 8:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        os.killpg(process.pid, signal.SIGKILL)
    assert not (killed / "result.json").exists()
    done = subprocess.run(two_processes(path, killed), env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert deterministic(killed) == deterministic(tmp_path / "two"), "bit for bit"


def test_groups_and_batches_must_be_shareable(shared, monkeypatch):
    monkeypatch.setattr("torch.distributed.new_group", lambda backend: None)
    with pytest.raises(TrialError, match="must be multiples of the number of processes, 4"):
        Run(parse_trial(shared), CPU, Processes(0, 4))


@pytest.mark.parametrize(("length", "count"), [(61, 2), (16, 2), (7, 3), (2, 2)])
def test_shares_cover_every_position_once(length, count, monkeypatch):
    monkeypatch.setattr("torch.distributed.new_group", lambda backend: None)
    shares = [Processes(rank, count).share(5, 5 + length) for rank in range(count)]
    assert [i for share in shares for i in range(share.start, share.stop)] == list(range(5, 5 + length))
    sizes = [share.stop - share.start for share in shares]
    assert max(sizes) - min(sizes) <= 1
