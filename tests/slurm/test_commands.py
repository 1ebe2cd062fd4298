"""status, logs, cancel, retry and doctor on a real cluster."""

import json
import os

from launch.runs.status import SETTLED_SECONDS
from tests.support import processes
from tests.support.slurm.launcher import journal


def look(launcher, spec, **environment):
    """What `status` says of each trial, by seed."""
    code, out, err = launcher.run("status", spec, "--json", **environment)
    assert code == 0, err
    return {trial["seed"]: trial for trial in json.loads(out)["trials"]}


def test_one_task_at_a_time_seen_cancelled_lost_and_retried(launcher):
    """Seed 0 runs, 1 and 2 wait; 0 and 1 are cancelled, 2 is lost to a scancel that nobody knows
    of; all end in the end.
    """
    spec = launcher.spec(seeds=[0, 1, 2], epochs=60)
    launcher.submit(spec, "--workers", "1")
    first, second, third = launcher.run_dirs
    pid = launcher.freeze(first)
    now = look(launcher, spec)
    assert [now[seed]["state"] for seed in range(3)] == ["running", "waiting", "waiting"]
    assert now[0]["where"] in ("n1", "n2", "n3")
    assert now[0]["job"].endswith("_0")
    assert now[0]["epoch"] >= 1
    assert now[0]["seconds_left"] > 0
    assert now[1]["where"] == "JobArrayTaskLimit"
    assert now[1]["job"].endswith("_1")

    launcher.cluster.ask("scancel", now[2]["job"])
    with launcher.start("cancel", second.name, first.name) as cancel:
        launcher.wait_until((first / "cancel").exists, "the first one is told")
        processes.thaw(pid)
        out, err = cancel.communicate()
    assert cancel.returncode == 0, err
    assert f"{first.name}: checkpointed and stopped" in out
    assert f"{second.name}: taken out of the scheduler's queue" in out
    assert journal(first)[-1] == "interrupted"
    submission = third / "jobs.jsonl"
    submitted = json.loads(submission.read_text())
    submission.write_text(
        json.dumps({**submitted, "time": submitted["time"] - SETTLED_SECONDS}) + "\n"
    )
    launcher.wait_until(lambda: look(launcher, spec)[2]["state"] == "lost", "the third is missed")
    now = look(launcher, spec)
    assert [(now[seed]["state"], now[seed]["note"]) for seed in (0, 1)] == [
        ("interrupted", "cancelled")
    ] * 2
    launcher.wait_until(lambda: not launcher.cluster.ask("squeue", "-h").strip(), "no job is left")
    assert journal(second) == journal(third) == []

    code, _, err = launcher.run("retry", spec, "--backend", "slurm", "--slurm", "cpus_per_gpu=4")
    assert code == 0, err
    assert "0 failed and 1 lost are tried again" in err
    code, out, err = launcher.run("logs", "-f", third.name)
    assert code == 0, err
    assert "epoch 60/60" in out
    assert f"{third.name}: finished" in err
    assert journal(second) == []
    launcher.submit(spec)
    launcher.wait_finished([first, second])
    assert "resumed" in journal(first)
    assert {trial["state"] for trial in look(launcher, spec).values()} == {"finished"}


def test_a_controller_that_is_away_is_not_taken_for_an_end(launcher):
    spec = launcher.spec(seeds=[0], epochs=150)
    launcher.submit(spec, "--slurm", "sbatch.hold=true")
    with launcher.cluster.without_controller() as environment:
        now = look(launcher, spec, **environment)[0]
        assert now["state"] == "waiting"
        assert "cannot be asked" in now["note"]
        code, out, _ = launcher.run("cancel", spec, **environment)
        assert code == 0
        assert "the scheduler could not be asked to drop it" in out
    assert look(launcher, spec)[0]["state"] == "interrupted"


def test_doctor_sends_a_job_that_tests_a_node(launcher):
    words = ("doctor", "experiments/quickstart.yaml", "--backend", "slurm", "--submit", "--json")
    code, out, err = launcher.run(
        *words, "--slurm", "gpus_per_trial=0", "--slurm", "cpus_per_gpu=2"
    )
    found = [(check["level"], check["what"]) for check in json.loads(out)["checks"]]
    assert code == 0, out + err
    notes = {name for level, name in found if level == "note"}
    assert notes - {"bf16"} == {"accounting"}, "bf16 is slow on some processors"
    for what in (
        "MaxArraySize",
        "preemption",
        "site settings",
        "shared files",
        "node's clock",
        "node's Python",
        "requeue",
    ):
        assert ("ok", what) in found, out
    assert found.count(("ok", "signals")) == 2
    assert not launcher.cluster.ask("squeue", "-h").strip(), "it leaves no job behind"
    assert not os.listdir(launcher.results / "slurm")  # noqa: PTH208


def test_doctor_finds_what_is_wrong(launcher):
    """GPUs that torch does not see (they are pretended here), and a partition that is not
    there.
    """
    words = ("doctor", "experiments/quickstart.yaml", "--backend", "slurm", "--json")
    code, out, _ = launcher.run(
        *words, "--submit", "--slurm", "gpus_per_trial=2", "--slurm", "cpus_per_gpu=2"
    )
    assert code == 1
    wrong = [check for check in json.loads(out)["checks"] if check["level"] == "wrong"]
    assert [check["what"] for check in wrong] == ["GPUs"]
    assert "2 were given (0,1), and torch sees 0" in wrong[0]["finding"]
    code, out, _ = launcher.run(*words, "--slurm", "partition=gpuu")
    assert code == 1
    wrong = [check for check in json.loads(out)["checks"] if check["level"] == "wrong"]
    assert [check["what"] for check in wrong] == ["site settings"]
    assert "invalid partition" in wrong[0]["finding"]
