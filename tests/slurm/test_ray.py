"""`--backend ray --on-slurm`: Ray over two nodes of a real SLURM cluster, preempted in the midst
of it.
"""

import json
import os
import signal
from pathlib import Path

import pytest

from launch.backends.slurm import cli
from launch.runs.rundir import RunDir
from tests.support.processes import parent_of, thaw
from tests.support.slurm.launcher import Launcher, journal, worker_pid
from tests.support.trials import deterministic

WORDS = (
    "--backend",
    "ray",
    "--on-slurm",
    "nodes=2",
    "--slurm",
    "gpus_per_trial=0",
    "--slurm",
    "cpus_per_gpu=1",
)


@pytest.fixture(autouse=True)
def _ask_this_cluster(launcher, monkeypatch):
    monkeypatch.setenv("SLURM_CONF", launcher.environment["SLURM_CONF"])
    monkeypatch.setenv("RM_RESULTS_DIR", str(launcher.results))
    cli.configuration.cache_clear()


def ours(launcher: Launcher) -> list[int]:
    """Processes of this cluster's jobs, by the folder in their environment."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            environment = (entry / "environ").read_bytes()
        except OSError:
            continue
        if b"SLURM_PROCID=" in environment and str(launcher.results).encode() in environment:
            found.append(int(entry.name))
    return found


@pytest.mark.cluster
def test_a_plan_on_two_nodes_is_preempted_requeued_and_ends_as_an_undisturbed_one(
    launcher, undisturbed
):
    spec = launcher.spec(seeds=[0, 1, 2], epochs=60)
    code, _, err = launcher.run(spec, *WORDS)
    assert code == 0, err
    assert "3 trials go to SLURM as job " in err
    code, _, err = launcher.run(spec, *WORDS)
    assert "go to SLURM" not in err, "they have a job already"
    first = launcher.run_dirs[:2]
    stopped: dict[Path, int] = {}

    def stop_in_mid_training() -> bool:
        """Each as soon as it trains, however fast this machine is."""
        for run_dir in first:
            pid = worker_pid(run_dir)
            if run_dir not in stopped and pid is not None and journal(run_dir).count("epoch") >= 2:
                os.kill(pid, signal.SIGSTOP)
                stopped[run_dir] = pid
        return len(stopped) == len(first)

    launcher.wait_until(stop_in_mid_training, "two trials train", 600)
    workers = list(stopped.values())
    assert len({parent_of(pid) for pid in workers}) == 2, "a raylet on each node started one"
    launcher.preempt()
    for pid in workers:
        thaw(pid)
    launcher.wait_finished(launcher.run_dirs, 900)
    for run_dir in launcher.run_dirs:
        assert journal(run_dir).count("started") == journal(run_dir).count("finished") == 1
        assert RunDir(run_dir).state() == "finished"
    for run_dir in first:
        assert "interrupted" in journal(run_dir), "it was given the time to checkpoint"
        assert "resumed" in journal(run_dir)
    assert (
        len(
            {json.loads(line)["id"] for line in (first[0] / "jobs.jsonl").read_text().splitlines()}
        )
        == 1
    )
    launcher.wait_until(lambda: not ours(launcher), "Ray has ended with the job", 120)
    for run_dir in launcher.run_dirs:
        assert deterministic(run_dir) == undisturbed(run_dir)


def test_what_on_slurm_takes(launcher):
    spec = launcher.spec(seeds=[0], epochs=1)
    for words, said in (
        (("--on-slurm", "4"), "error: --on-slurm takes nodes=N, such as nodes=4; found '4'"),
        (
            ("--on-slurm", "nodes=0"),
            "error: --on-slurm takes nodes=N, such as nodes=4; found 'nodes=0'",
        ),
        (("--on-slurm", "nodes=2", "--address", "auto"), "give one of them"),
        (
            ("--on-slurm", "nodes=2", "--slurm", "tme=1"),
            "--slurm tme=1: unknown setting 'tme'; did you mean 'time'?",
        ),
    ):
        code, out, err = launcher.run(spec, "--backend", "ray", *words)
        assert (code, out) == (2, ""), err
        assert said in err
        assert "Traceback" not in err
    assert not launcher.results.exists()
