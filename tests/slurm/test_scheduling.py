"""What is submitted, once and only once. The jobs are held, so that nothing but the scheduling
takes time.
"""

import json
import os
from pathlib import Path

import pytest

from launch.backends.slurm import cli
from launch.backends.slurm.backend import SlurmBackend
from tests.support.slurm.launcher import journal, real, wrapped_sbatch
from tests.support.trials import PATIENCE

HELD = ("--slurm", "sbatch.hold=true")


@pytest.fixture(autouse=True)
def _ask_this_cluster(launcher, monkeypatch):
    monkeypatch.setenv("SLURM_CONF", launcher.environment["SLURM_CONF"])
    monkeypatch.setenv("RM_RESULTS_DIR", str(launcher.results))
    cli.configuration.cache_clear()


def queued(launcher) -> list[str]:
    """Names of the queued array tasks, one for each."""
    return launcher.cluster.ask("squeue", "-h", "-r", "-o", "%j").split()


def test_a_plan_beyond_the_largest_array_becomes_several(launcher):
    """MaxArraySize is 5: twelve trials, two a job, four at a time, are arrays of five and one, of
    two tasks at a time each.
    """
    spec = launcher.spec(seeds=list(range(12)), epochs=2)
    err = launcher.submit(spec, *HELD, "--slurm", "trials_per_job=2", "--workers", "4")
    assert "12 submitted" in err
    assert len(queued(launcher)) == 6
    assert len(set(queued(launcher))) == 2
    found = SlurmBackend.jobs(launcher.run_dirs)
    assert {job.state for job in found.values()} == {"pending"}
    assert {job.where for job in found.values()} <= {"JobHeldUser", "Dependency"}
    ids = [job.id for job in found.values()]
    assert [ids.count(each) for each in sorted(set(ids))] == [2] * 6, "two trials in each task"
    scripts = sorted(path.read_text() for path in launcher.results.glob("slurm/*/submission.sh"))
    assert [line for text in scripts for line in text.splitlines() if "--array" in line] == [
        "#SBATCH --array=0-0%1",
        "#SBATCH --array=0-4%2",
    ]
    assert all("#SBATCH --requeue" in text for text in scripts)


def test_two_launchers_and_a_third_later_submit_each_trial_once(launcher):
    spec = launcher.spec(seeds=[0, 1, 2], epochs=2)
    words = (spec, "--backend", "slurm", *HELD)
    both = [launcher.start(*words), launcher.start(*words)]
    said = [process.communicate(timeout=PATIENCE)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert len(queued(launcher)) == 3
    assert sum("3 of 3 have a job or run already" in each for each in said) == 1, said
    assert "3 of 3 have a job or run already" in launcher.submit(spec, *HELD)
    assert len(queued(launcher)) == 3
    SlurmBackend.withdraw(launcher.run_dirs[:2])
    assert len(queued(launcher)) == 1
    assert [job.state for job in SlurmBackend.jobs(launcher.run_dirs).values()] == [
        "gone",
        "gone",
        "pending",
    ]
    assert "1 of 3 have a job" in launcher.submit(spec, *HELD)
    assert len(queued(launcher)) == 3


def test_a_task_is_withdrawn_only_if_all_its_trials_are(launcher):
    launcher.submit(launcher.spec(seeds=[0, 1], epochs=2), *HELD, "--slurm", "trials_per_job=2")
    SlurmBackend.withdraw(launcher.run_dirs[:1])
    assert len(queued(launcher)) == 1
    SlurmBackend.withdraw(launcher.run_dirs)
    assert queued(launcher) == []


LATE = (
    "echo 'sbatch: error: Batch job submission failed: Socket timed out on send/recv "
    "operation' >&2; exit 1"
)


def test_an_sbatch_that_accepts_and_then_reports_a_time_out_doubles_nothing(launcher):
    path = wrapped_sbatch(
        launcher, f'/usr/bin/env -u PATH {real("sbatch")} "$@" > /dev/null; {LATE}'
    )
    err = launcher.submit(launcher.spec(seeds=[0, 1], epochs=2), *HELD, **path)
    assert "2 submitted" in err
    assert len(queued(launcher)) == 2
    assert (launcher.folder / "bin" / "calls").read_text() == "x\n", (
        "looked up, not submitted again"
    )
    assert {job.state for job in SlurmBackend.jobs(launcher.run_dirs).values()} == {"pending"}


def test_an_sbatch_that_times_out_without_accepting_is_tried_again(launcher):
    script = f'[ $(wc -l < $calls) -gt 1 ] && exec {real("sbatch")} "$@"; {LATE}'
    launcher.submit(launcher.spec(seeds=[0], epochs=2), *HELD, **wrapped_sbatch(launcher, script))
    assert (launcher.folder / "bin" / "calls").read_text() == "x\nx\n"
    assert len(queued(launcher)) == 1


def test_the_next_launcher_adopts_what_a_killed_one_had_submitted(launcher):
    """The launcher dies between SLURM's answer and writing it down."""
    script = f'{real("sbatch")} "$@"; kill -9 $PPID; sleep 1'
    spec = launcher.spec(seeds=[0, 1], epochs=2)
    path = wrapped_sbatch(launcher, script)
    code, _, _ = launcher.run(spec, "--backend", "slurm", *HELD, **path)
    assert code == -9
    assert not list(launcher.results.glob("slurm/*/submitted.json"))
    assert not list(launcher.results.glob("runs/*/jobs.jsonl"))
    assert "2 of 2 have a job" in launcher.submit(spec, *HELD)
    assert len(queued(launcher)) == 2


def test_a_refusal_is_said_once_and_nothing_is_left_behind(launcher):
    spec = launcher.spec(seeds=[0, 1], epochs=2)
    code, _, err = launcher.run(spec, "--backend", "slurm", "--slurm", "partition=nowhere")
    assert code == 2
    assert err.count("invalid partition specified: nowhere") == 1
    assert "Traceback" not in err
    assert queued(launcher) == []
    assert "2 submitted" in launcher.submit(spec, *HELD)
    code, _, err = launcher.run(
        spec, "--backend", "slurm", PATH=str(Path(os.sys.executable).parent)
    )
    assert (code, "sbatch is not on the PATH" in err) == (2, True)
    assert [journal(run_dir) for run_dir in launcher.run_dirs] == [[], []]


def test_where_slurm_does_not_answer_nothing_is_submitted_and_nothing_called_dead(
    launcher, monkeypatch
):
    spec = launcher.spec(seeds=[0], epochs=2)
    launcher.submit(spec, *HELD)
    with launcher.cluster.without_controller() as environment, monkeypatch.context() as patch:
        patch.setenv("SLURM_CONF", environment["SLURM_CONF"])
        assert [job.state for job in SlurmBackend.jobs(launcher.run_dirs).values()] == ["unknown"]
        code, _, err = launcher.run(spec, "--backend", "slurm", *HELD, **environment)
        assert code == 2
        assert "SLURM does not answer on this machine, and nothing is submitted (" in err
    assert [job.state for job in SlurmBackend.jobs(launcher.run_dirs).values()] == ["pending"]
    lines = [
        json.loads(line) for line in (launcher.run_dirs[0] / "jobs.jsonl").read_text().splitlines()
    ]
    assert [(line["backend"], "name" in line, "time" in line) for line in lines] == [
        ("slurm", True, True)
    ]
