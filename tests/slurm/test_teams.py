"""A trial over two nodes with two GPUs each: four processes that are killed, preempted, requeued,
and end as undisturbed ones.
"""

import os
import shutil
import signal
from pathlib import Path

import pytest

from launch.backends.slurm import cli
from launch.backends.slurm.backend import SlurmBackend
from tests.support import processes
from tests.support.ranks import train_together
from tests.support.slurm.launcher import Launcher, journal, starts
from tests.support.trials import deterministic

PROCESSES = 4
EPOCHS = 48
"""So many that none of a busy machine's pauses lasts as long as the training that is left."""
TEAM = {
    "batch_size: 16": "batch_size: 16, batch_norm_groups: 4",
    "\ntrial:": "\nresources: {nodes: 2, gpus: 2}\ntrial:",
}
"""What makes a trial of the spec one of two nodes."""


@pytest.fixture(autouse=True)
def _ask_this_cluster(launcher, monkeypatch):
    monkeypatch.setenv("SLURM_CONF", launcher.environment["SLURM_CONF"])
    monkeypatch.setenv("RM_RESULTS_DIR", str(launcher.results))
    cli.configuration.cache_clear()


def team_of(run_dir: Path) -> dict[int, tuple[int, str]]:
    """Rank -> process and node of those that train this run directory."""
    found = processes.ranks_of(run_dir)
    return {int(of["RANK"]): (pid, of["SLURMD_NODENAME"]) for pid, of in found.items()}


def freeze(launcher: Launcher, run_dir: Path, epochs: int) -> dict[int, tuple[int, str]]:
    """Stop the last process in the midst of training; the others then wait for it in the next
    step.
    """
    before = journal(run_dir).count("epoch")
    launcher.wait_until(
        lambda: (
            len(team_of(run_dir)) == PROCESSES
            and journal(run_dir).count("epoch") >= before + epochs
        ),
        "all train",
    )
    team = team_of(run_dir)
    os.kill(team[PROCESSES - 1][0], signal.SIGSTOP)
    assert not (run_dir / "result.json").exists()
    return team


def undisturbed(run_dir: Path, folder: Path) -> list[dict]:
    """The numbers of the same trial by as many processes of this machine alone."""
    folder.mkdir()
    shutil.copy(run_dir / "trial.json", folder)
    train_together(folder, PROCESSES)
    return deterministic(folder)


@pytest.mark.cluster
def test_a_trial_over_two_nodes_is_killed_preempted_and_ends_as_an_undisturbed_one(
    launcher: Launcher, tmp_path
):
    launcher.submit(launcher.spec(seeds=[0], epochs=EPOCHS, **TEAM), RM_CHECKPOINT_SECONDS="0")
    (run_dir,) = launcher.run_dirs
    team = freeze(launcher, run_dir, 2)
    nodes = [team[rank][1] for rank in range(PROCESSES)]
    assert nodes[0] == nodes[1] != nodes[2] == nodes[3]
    os.kill(team[2][0], signal.SIGKILL)
    launcher.wait_until(
        lambda: (
            not {pid for pid, _ in team.values()} & {pid for pid, _ in team_of(run_dir).values()}
        ),
        "all four end",
    )
    team = freeze(launcher, run_dir, 2)
    assert journal(run_dir).count("resumed") == 1
    assert "failed" not in journal(run_dir), "one that lost another has not failed"
    launcher.preempt()
    processes.thaw(team[PROCESSES - 1][0])
    launcher.wait_finished([run_dir])
    assert [start["restart"] for start in starts(run_dir)] == [0, 0, 1]
    events = journal(run_dir)
    assert events.count("started") == events.count("finished") == events.count("interrupted") == 1
    assert events.count("resumed") == 2
    assert len(deterministic(run_dir)) == EPOCHS
    assert events.count("epoch") <= EPOCHS + 1, (
        "one may have been killed between its line and its save"
    )
    assert deterministic(run_dir) == undisturbed(run_dir, tmp_path / "undisturbed")
    launcher.wait_until(
        lambda: SlurmBackend.jobs([run_dir])[run_dir].state == "gone", "its job is done"
    )
    assert not team_of(run_dir)
    assert not list(launcher.results.glob("slurm/*/nodes-*.json")), "nobody is invited any more"


def test_what_cannot_be_is_refused_before_anything_runs(launcher: Launcher):
    spec = launcher.spec(seeds=[0, 1], epochs=3, **TEAM)
    words = (spec, "--backend", "slurm", "--slurm", "cpus_per_gpu=1")
    code, _, err = launcher.run(*words, "--slurm", "trials_per_job=2")
    assert (code, "trials_per_job packs trials of one GPU each" in err) == (2, True), err
    code, _, err = launcher.run(*words, "--gpus", "1x4")
    assert code == 2, err
    assert "nothing more was submitted: sbatch:" in err
    assert "asked for 1 nodes with 4 GPUs each" in err
    code, _, err = launcher.run(spec, "--backend", "ray", "--on-slurm", "nodes=2")
    assert (code, "--on-slurm gives each one" in err) == (2, True), err
    assert not list(launcher.results.glob("runs/*/jobs.jsonl")), "none has a job"
