"""One trial over two processes, on every backend: killed, interrupted, and equal to what two
undisturbed processes make of it.
"""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from tests.support import processes
from tests.support.ranks import train_together
from tests.support.rm.imagenet_tree import make_tree
from tests.support.trials import deterministic

TEAM = {
    "trial:\n": "resources: {gpus: 2}\ntrial:\n",
    "epochs: 2, batch_size: 16": "epochs: 16, batch_size: 16, batch_norm_groups: 2",
    "[0, 1]": "[0]",
    "    Baseline: baseline\n": "",
    'claims: ["RM < Baseline"]': "",
}

KNOWN: dict[tuple[str, int], list[dict]] = {}
"""Trial and threads -> its undisturbed numbers."""


def ranks_of(run_dir: Path) -> dict[int, int]:
    """Process -> rank of those that train this run directory."""
    return {
        pid: int(environment["RANK"]) for pid, environment in processes.ranks_of(run_dir).items()
    }


def freeze_second(backend, process, event: str, times: int) -> int:
    """Stop the second process once an event is in the journal so often: the first one waits for it
    in its next step, and the trial cannot end meanwhile. Returns its number.
    """
    backend.wait(
        lambda: any(backend.events(each).count(event) >= times for each in backend.leased()),
        process,
    )
    ((trial, _),) = backend.leased().items()
    ranks = ranks_of(backend.results / "runs" / trial)
    assert sorted(ranks.values()) == [0, 1]
    second = next(pid for pid, rank in ranks.items() if rank == 1)
    processes.freeze(second)
    assert "finished" not in backend.events(trial)
    return second


@pytest.mark.cluster
def test_two_processes_are_killed_interrupted_and_end_as_undisturbed_ones(
    backend, write_spec, tmp_path
):
    path = write_spec(**TEAM)
    process = backend.start(path, "--workers", 1, environment={"RM_CHECKPOINT_SECONDS": "0.1"})
    second = freeze_second(backend, process, "checkpoint", 1)
    ((trial, supervisor),) = backend.leased().items()
    run_dir = backend.results / "runs" / trial
    before = set(ranks_of(run_dir))
    os.kill(second, signal.SIGKILL)
    second = freeze_second(backend, process, "resumed", 1)
    after = set(ranks_of(run_dir))
    assert not before & after
    assert backend.leased()[trial] != supervisor
    os.kill(backend.leased()[trial], signal.SIGKILL)
    processes.thaw(second)
    second = freeze_second(backend, process, "resumed", 2)
    assert not after & set(ranks_of(run_dir)), "none outlives the one that held the lease"
    assert "failed" not in backend.events(trial)
    code, err = backend.interrupt(process, [second])
    assert code == 130, err
    assert backend.events(trial)[-1] == "interrupted"
    assert not ranks_of(run_dir)
    code, _, err = backend.run(path, "--workers", 1)
    assert code == 0, err
    events = backend.events(trial)
    assert (events.count("started"), events.count("resumed"), events.count("finished")) == (
        1,
        3,
        1,
    )
    started = json.loads((run_dir / "journal.jsonl").read_text().splitlines()[0])
    assert started["processes"] == 2
    assert deterministic(run_dir) == alone(run_dir, tmp_path / "alone", started["threads"])


@pytest.mark.cluster
def test_two_processes_read_pictures(undisturbed, write_spec, tmp_path):
    """Each forks readers while a thread of it waits for its input to end."""
    make_tree(tmp_path / "data" / "imagenet")
    pictures = {
        "{name: digits, size: 16, limit: 70, test_limit: 60}": "{name: imagenet, size: 16}"
    }
    path = write_spec(
        **TEAM, **pictures, **{"epochs: 16, batch_size: 16": "epochs: 2, batch_size: 4"}
    )
    data = {"RM_DATA_DIR": str(tmp_path / "data"), "RM_LOADER_WORKERS": "1"}
    code, _, err = undisturbed.run(path, "--workers", 1, environment=data)
    assert code == 0, err
    (trial,) = undisturbed.numbers()
    assert undisturbed.events(trial)[-1] == "finished"


def alone(run_dir: Path, folder: Path, threads: int) -> list[dict]:
    """The numbers of the same trial where nothing of ours but `rm` has a part in it, computed
    once.
    """
    if (run_dir.name, threads) not in KNOWN:
        folder.mkdir()
        shutil.copy(run_dir / "trial.json", folder)
        train_together(folder, 2, threads)
        KNOWN[run_dir.name, threads] = deterministic(folder)
    return KNOWN[run_dir.name, threads]
