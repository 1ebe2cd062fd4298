"""What clusters do to jobs: preemption, time limits, lost nodes, dead workers, restarted
controllers. Nothing is lost or doubled.

Every trial must end with the numbers, bit for bit, of one that nothing disturbed.
"""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from launch.backends.slurm import cli, jobs, submissions
from launch.backends.slurm.backend import SlurmBackend
from launch.backends.slurm.jobs import JobRef
from launch.runs import lease
from launch.runs.rundir import RunDir
from tests.support.processes import thaw
from tests.support.slurm.launcher import Launcher, journal, starts, worker_pid
from tests.support.trials import deterministic

pytestmark = pytest.mark.cluster
EPOCHS = 60


@pytest.fixture(autouse=True)
def _ask_this_cluster(launcher, monkeypatch):
    monkeypatch.setenv("SLURM_CONF", launcher.environment["SLURM_CONF"])
    monkeypatch.setenv("RM_RESULTS_DIR", str(launcher.results))
    cli.configuration.cache_clear()


def states(run_dirs) -> list[str]:
    return [job.state for job in SlurmBackend.jobs(run_dirs).values()]


def trained_once(run_dir: Path) -> None:
    """One start, one end, each epoch in order: no second job ever trained it from the
    beginning.
    """
    events = journal(run_dir)
    assert events.count("started") == events.count("finished") == 1
    ids = {json.loads(line)["id"] for line in (run_dir / "jobs.jsonl").read_text().splitlines()}
    assert len(ids) == 1, "always the same job"


def test_preempted_trials_are_requeued_and_end_as_undisturbed_ones(
    launcher: Launcher, undisturbed
):
    """A job of a higher partition takes all nodes; SLURM requeues ours, which had checkpointed."""
    launcher.submit(launcher.spec(seeds=[0, 1], epochs=EPOCHS))
    both = launcher.run_dirs
    pids = [launcher.freeze(run_dir) for run_dir in both]
    launcher.preempt()
    for pid in pids:
        thaw(pid)
    launcher.wait_finished(both)
    for run_dir in both:
        trained_once(run_dir)
        assert "interrupted" in journal(run_dir), "it was given the time to checkpoint"
        assert [start["restart"] for start in starts(run_dir)] == [0, 1]
        assert deterministic(run_dir) == undisturbed(run_dir)
    launcher.wait_until(lambda: states(both) == ["gone", "gone"], "their jobs are done")


def test_a_restarted_controller_a_killed_worker_a_cancelled_task_and_a_lost_node(
    launcher: Launcher, undisturbed, monkeypatch
):
    """One after another to four trials in one array."""
    spec = launcher.spec(seeds=[0, 1, 2, 3], epochs=EPOCHS)
    launcher.submit(spec, RM_CHECKPOINT_SECONDS="0")  # what is killed goes on from its last step
    bystander, killed, ended, on_lost_node = run_dirs = launcher.run_dirs
    pids = {run_dir: launcher.freeze(run_dir) for run_dir in run_dirs}

    with launcher.cluster.without_controller() as environment, monkeypatch.context() as patch:
        patch.setenv("SLURM_CONF", environment["SLURM_CONF"])
        assert states(run_dirs) == ["unknown"] * 4
        thaw(pids[bystander])
        launcher.freeze(bystander)  # after more epochs, without a controller
    launcher.wait_until(
        lambda: states(run_dirs) == ["running"] * 4, "the new controller knows the jobs"
    )
    thaw(pids[bystander])

    os.kill(pids[killed], signal.SIGKILL)
    launcher.wait_until(
        lambda: worker_pid(killed) not in (None, pids[killed]), "another worker goes on"
    )

    jobs.cancel([JobRef.of(submissions.job_lines(ended)[-1])])
    thaw(pids[ended])
    launcher.wait_until(lambda: states([ended]) == ["gone"], "the job that was ended is gone")
    launcher.wait_until(lambda: journal(ended)[-1] == "interrupted", "it had checkpointed")

    node = starts(on_lost_node)[-1]["node"]
    launcher.cluster.end(node, kill=True)
    launcher.wait_until(
        lambda: len(starts(on_lost_node)) == 2, "the lost node's task starts on another"
    )
    assert starts(on_lost_node)[-1]["node"] != node
    assert journal(on_lost_node).count("resumed") == 0, "not while its first worker is alive"
    launcher.cluster.start_node(node)
    thaw(pids[on_lost_node])

    launcher.wait_finished([bystander, killed, on_lost_node])
    assert not (ended / "result.json").exists(), "nobody restarts what someone ended"
    for run_dir in (bystander, killed, on_lost_node):
        trained_once(run_dir)
        assert deterministic(run_dir) == undisturbed(run_dir)
    launcher.wait_until(lambda: set(states(run_dirs)) == {"gone"}, "their jobs are done")
    launcher.submit(spec)
    launcher.wait_finished([ended])
    assert deterministic(ended) == undisturbed(ended)
    assert journal(ended).count("started") == 1


def test_a_time_limit_shorter_than_the_training(launcher: Launcher, undisturbed):
    """One minute, and a training that is held up until SLURM's warning comes: checkpoint, requeue,
    go on; twice.
    """
    launcher.submit(launcher.spec(seeds=[0], epochs=EPOCHS), "--slurm", "time=00:01:00")
    (run_dir,) = launcher.run_dirs

    def warnings() -> int:
        return sum(
            path.read_text().count("USR2: checkpointing")
            for path in launcher.results.glob("slurm/*/*.out")
        )

    def positions() -> list[tuple[int, int]]:
        return [tuple(start["position"]) for start in starts(run_dir)]

    # A slow machine's first warning may come while the worker still starts: such a start counts
    # for nothing, and the next one is held up.
    while len(set(positions())) < 3:
        warned, begun = warnings(), len(starts(run_dir))
        pid = launcher.freeze(run_dir)
        launcher.wait_until(lambda warned=warned: warnings() > warned, "SLURM warns of the limit")
        thaw(pid)
        launcher.wait_until(lambda begun=begun: len(starts(run_dir)) > begun, "it starts again")
    launcher.wait_finished([run_dir])
    trained_once(run_dir)
    assert positions() == sorted(positions()), "it never goes back"
    assert deterministic(run_dir) == undisturbed(run_dir)
    launcher.wait_until(lambda: states([run_dir]) == ["gone"], "its job is done")


def test_a_cancelled_trial_checkpoints_is_not_requeued_and_leaves_its_job_to_the_others(
    launcher: Launcher, undisturbed
):
    """Two trials in one job: the first is asked to stop while it trains, and goes on when it is
    wanted again.
    """
    spec = launcher.spec(seeds=[0, 1], epochs=EPOCHS)
    launcher.submit(spec, "--slurm", "trials_per_job=2")
    cancelled, other = launcher.run_dirs
    pid = launcher.freeze(cancelled)
    RunDir(cancelled).request_cancel()
    time.sleep(
        lease.CANCEL_SECONDS + 0.5
    )  # it looks at once when it goes on, as its clock went on
    thaw(pid)
    launcher.wait_finished([other])
    launcher.wait_until(
        lambda: states([cancelled, other]) == ["gone", "gone"], "their job is done"
    )
    assert journal(cancelled)[-1] == "interrupted"
    assert len(starts(cancelled)) == 1
    launcher.submit(spec)
    launcher.wait_finished([cancelled])
    assert journal(cancelled).count("started") == 1
    assert deterministic(cancelled) == undisturbed(cancelled)


def test_a_trial_that_never_gets_further_is_failed_after_three_starts(launcher: Launcher):
    """Its worker dies each time before it has saved anything; the task says so in the journal, and
    does not go round forever.
    """
    launcher.submit(
        launcher.spec(seeds=[0], epochs=EPOCHS), "--slurm", "setup=export RM_THREADS=none"
    )
    (run_dir,) = launcher.run_dirs
    launcher.wait_until(lambda: journal(run_dir) == ["failed"], "failed")
    assert (
        "invalid literal for int" in json.loads((run_dir / "journal.jsonl").read_text())["error"]
    )
    launcher.wait_until(lambda: states([run_dir]) == ["gone"], "its job is done")


def test_three_starts_that_get_no_further_are_enough(launcher: Launcher):
    """Each time SLURM warns of the time limit before the first step; the fourth incarnation fails
    the trial and says why. Requeued by an administrator, as often, it just goes on.
    """
    spec = launcher.spec(seeds=[0, 1], epochs=EPOCHS)
    launcher.submit(spec)
    short, moved = launcher.run_dirs
    ids = {run_dir: job.id for run_dir, job in SlurmBackend.jobs([short, moved]).items()}
    for start in range(3):
        pids = {}
        for run_dir in (short, moved):
            launcher.wait_until(
                lambda run_dir=run_dir, start=start: (
                    len(starts(run_dir)) == start + 1 and worker_pid(run_dir)
                ),
                "its worker has begun",
            )
            pids[run_dir] = worker_pid(run_dir)
            os.kill(pids[run_dir], signal.SIGSTOP)
            assert "epoch" not in journal(run_dir)
        launcher.cluster.ask("scancel", "--signal=USR2", ids[short])
        launcher.cluster.ask("scontrol", "requeue", ids[moved])
        for run_dir in (short, moved):
            launcher.wait_until(
                lambda run_dir=run_dir, start=start: said(launcher, ids[run_dir]) > start,
                "told to go",
            )
            thaw(pids[run_dir])
    launcher.wait_until(lambda: journal(short)[-1:] == ["failed"], "failed")
    assert [start["restart"] for start in starts(short)] == [0, 1, 2]
    code, out, _ = launcher.run("status", spec, "--json")
    trial, _ = json.loads(out)["trials"]
    assert (code, trial["state"]) == (0, "failed")
    assert trial["note"].startswith(
        "3 starts in a row got no further than epoch 1, step 0; the job's time limit, or "
    )
    launcher.wait_finished([moved])
    assert "failed" not in journal(moved)
    assert [start["restart"] for start in starts(moved)] == [0, 1, 2, 3]
    launcher.wait_until(lambda: states([short]) == ["gone"], "its job is done")


def said(launcher: Launcher, identity: str) -> int:
    """How often a job has heard that it is to go."""
    array, _, index = identity.partition("_")
    logs = launcher.results.glob(f"slurm/*/{array}_{index}_0_log.out")
    return sum(path.read_text().count(": checkpointing") for path in logs)
