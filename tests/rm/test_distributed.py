"""Two real processes over gloo: equal to one process with grouped batch norm; killed and resumed,
equal to undisturbed.
"""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from rm.distributed import ProcessGroup, alike_buffers
from rm.rundir import checkpoint
from rm.rundir.journal import read
from rm.train import fit
from rm.trainer import Trainer
from rm.trial import TrialError, parse_trial
from tests.support.ranks import train_together
from tests.support.trials import PATIENCE, ROOT, contrastive, deterministic, write_trial

CPU = torch.device("cpu")
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(ROOT),
    "CUDA_VISIBLE_DEVICES": "",
}


@pytest.fixture
def shared(tiny):
    """20 steps of RecursiveMix with batch 128 in two groups, and a test split that two processes
    cannot share evenly.
    """
    tiny["train"] |= {"epochs": 4, "batch_size": 128, "batch_norm_groups": 2}
    tiny["dataset"] |= {"limit": 640, "test_limit": 61}
    return tiny


def two_processes(script, path, folder, *options):
    words = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--standalone",
    ]
    return [*words, str(script), str(path), str(folder), *options]


@pytest.fixture
def in_float64():
    """Where equal means equal: in fp32 a ReLU whose input is zero up to rounding falls on either
    side, and 20 steps make that visible. Forked processes inherit it.
    """
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


AMIX = {"name": "amix", "adjust": 0.5, "fixed_points": False}
AMIX |= {"objective": "infonce", "keys": 384, "left_out": "same_label", "pseudo_labels": 4}
CASES = {
    "recursive_mix": (None, {}),
    "amix": (AMIX, {}),
    "MoCo": ({"name": "baseline"}, {"queue": 384}),  # the queue wraps
    "AMix-C": ({"name": "amix_c", "clusters": 4}, {"queue": 384}),
}


@pytest.mark.cluster
@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize("case", CASES)
def test_two_processes_equal_one_with_two_groups(shared, tmp_path, case):
    """Of contrastive training too, whose keys are shuffled among the processes."""
    method, task = CASES[case]
    if task:
        shared = contrastive(shared, **task)
    if method is not None:  # five steps tell
        shared |= {"method": method, "train": {**shared["train"], "epochs": 1}}
    for name in ("one", "two"):
        write_trial(tmp_path / name, shared)
    fit(parse_trial(shared), tmp_path / "one", device=CPU)
    said = train_together(tmp_path / "two", 2)
    assert json.loads(said.splitlines()[-1])["best_epoch"] >= 1
    one, two = (deterministic(tmp_path / name) for name in ("one", "two"))
    for ours, theirs in zip(one, two, strict=True):
        assert theirs == pytest.approx(ours, rel=1e-6), (
            "losses, areas, rates, and errors on 61 images shared out as 30 and 31"
        )
    weights = [checkpoint.load(tmp_path / name, CPU)["task"] for name in ("one", "two")]
    dtypes = {value.dtype for value in weights[0].values() if torch.is_tensor(value)}
    assert dtypes - {torch.bool} == {
        torch.float64,
        torch.int64,  # batch norms count their batches
    }
    for name in (name for name, value in weights[0].items() if torch.is_tensor(value)):
        one, two = (each[name].double() for each in weights)
        assert torch.allclose(one, two, rtol=1e-9, atol=1e-9), name


@pytest.mark.cluster
def test_two_processes_survive_a_kill_bit_for_bit(shared, tmp_path):
    module = ROOT / "rm" / "train.py"
    path = write_trial(tmp_path / "two", shared)
    train_together(tmp_path / "two", 2)
    killed = tmp_path / "killed"
    with subprocess.Popen(
        two_processes(module, path, killed, "--checkpoint-seconds", "0"),
        env=ENVIRONMENT,
        start_new_session=True,
    ) as process:
        deadline = time.monotonic() + PATIENCE
        while sum(event["event"] == "checkpoint" for event in read(killed / "journal.jsonl")) < 8:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        os.killpg(process.pid, signal.SIGKILL)
    assert not (killed / "result.json").exists()
    subprocess.run(
        two_processes(module, path, killed), env=ENVIRONMENT, capture_output=True, check=True
    )
    assert deterministic(killed) == deterministic(tmp_path / "two")


def test_groups_and_batches_must_be_shareable(shared, monkeypatch):
    monkeypatch.setattr("torch.distributed.new_group", lambda backend: None)
    with pytest.raises(TrialError, match="must be multiples of the number of processes, 4"):
        Trainer(parse_trial(shared), CPU, ProcessGroup(0, 4))


@pytest.mark.parametrize(("length", "count"), [(61, 2), (16, 2), (7, 3), (2, 2)])
def test_shares_cover_every_position_once(length, count, monkeypatch):
    monkeypatch.setattr("torch.distributed.new_group", lambda backend: None)
    shares = [ProcessGroup(rank, count).share(5, 5 + length) for rank in range(count)]
    assert [i for share in shares for i in range(share.start, share.stop)] == list(
        range(5, 5 + length)
    )
    sizes = [share.stop - share.start for share in shares]
    assert max(sizes) - min(sizes) <= 1


def test_what_is_alike_everywhere_is_not_sent_at_each_step(tiny):
    values = {**contrastive(tiny), "method": {"name": "amix_c", "clusters": 4}}
    task = Trainer(parse_trial(values), torch.device("cpu")).task
    names = set(alike_buffers(task))
    assert names == {
        *(f"network.queue.{name}" for name in ("keys", "places", "position")),
        *(f"method.pseudo.clusters.{n}" for n in ("bank", "labels", "centroids", "started")),
    }
    others = {name for name, _ in task.named_buffers()} - names
    assert others
    assert all("running_" in name or "num_batches" in name for name in others)
