"""Trials that start from other trials, submitted at once: SLURM holds them until their parents'
tasks have ended well, however often these are requeued, and drops them where that cannot be.
"""

import json

import pytest

from launch.backends.slurm import cli
from launch.backends.slurm.backend import SlurmBackend
from launch.runs.rundir import RunDir
from launch.spec.load import load_spec
from tests.support import processes
from tests.support.slurm.launcher import journal

FAILING = {"lr: 0.05": "lr: 1.0e+30"}


@pytest.fixture(autouse=True)
def _ask_this_cluster(launcher, monkeypatch):
    monkeypatch.setenv("SLURM_CONF", launcher.environment["SLURM_CONF"])
    monkeypatch.setenv("RM_RESULTS_DIR", str(launcher.results))
    cli.configuration.cache_clear()


def two_specs(launcher, seeds, epochs, **more):
    """(parents' spec, children's spec, parents' run directories, children's)."""
    spec = launcher.spec(seeds=seeds, epochs=epochs, **more)
    text = spec.read_text(encoding="utf-8")
    child = spec.with_name("finetuned.yaml")
    trial = "  schedule: {name: cosine}\n"
    text = text.replace("lr: 1.0e+30", "lr: 0.05").replace(f"epochs: {epochs}", "epochs: 2")
    init = trial + "  init: {from: disturbed, row: RM}\n"
    child.write_text(text.replace(trial, init), encoding="utf-8")
    runs = launcher.results / "runs"
    found = [[runs / trial.id for trial in load_spec(path).trials] for path in (spec, child)]
    return spec, child, *found


def time_of(run_dir, event):
    return next(e["time"] for e in RunDir(run_dir).events()[0] if e["event"] == event)


def job_of(run_dir):
    return SlurmBackend.jobs([run_dir])[run_dir]


def wait_for_dependency(launcher, children):
    """Until the controller has looked at the new jobs: before that it gives no reason."""
    launcher.wait_until(
        lambda: all(job_of(each).where == "Dependency" for each in children),
        "the children wait for their dependency",
    )


def test_children_start_when_their_requeued_parents_have_finished(launcher):
    spec, child, parents, children = two_specs(launcher, [0, 1], 40)
    code, _, err = launcher.run(spec, child, "--backend", "slurm", "--slurm", "cpus_per_gpu=4")
    assert code == 0, err
    assert "4 submitted" in err
    wait_for_dependency(launcher, children)
    pids = [launcher.freeze(each) for each in parents]
    launcher.preempt()
    for pid in pids:
        processes.thaw(pid)
    launcher.wait_until(
        lambda: all("interrupted" in journal(each) for each in parents), "both are preempted"
    )
    assert [job_of(each).state for each in children] == ["pending"] * 2
    assert not any(RunDir(each).has("journal.jsonl") for each in children)
    launcher.wait_finished([*parents, *children])
    for parent, each in zip(parents, children, strict=True):
        assert "resumed" in journal(parent)
        assert time_of(each, "started") >= time_of(parent, "finished")


def test_parents_of_an_earlier_submission_are_waited_for(launcher):
    spec, child, parents, children = two_specs(launcher, [0], 2)
    launcher.submit(spec, "--slurm", "sbatch.hold=true")
    (parent,), (each,) = parents, children
    held = job_of(parent)
    err = launcher.submit(child)
    assert job_of(parent).id == held.id, err
    wait_for_dependency(launcher, [each])
    shown = launcher.cluster.ask("scontrol", "show", "job", job_of(each).id)
    assert f"afterok:{held.id}" in shown
    launcher.cluster.ask("scontrol", "release", held.id)
    launcher.wait_finished([parent, each])


def test_children_of_a_failed_parent_leave_the_queue(launcher):
    spec, child, parents, children = two_specs(launcher, [0], 2, **FAILING)
    words = ("--backend", "slurm", "--slurm", "cpus_per_gpu=4", "--wait")
    code, _, err = launcher.run(spec, child, *words)
    assert code == 1, err
    assert f"it starts from trial {parents[0].name}, which is not trained" in err
    assert journal(parents[0])[-1] == "failed"
    assert not RunDir(children[0]).has("journal.jsonl")
    assert job_of(children[0]).state == "gone"
    code, out, err = launcher.run("status", child, "--json")
    (shown,) = [trial for trial in json.loads(out)["trials"] if trial["id"] == children[0].name]
    assert shown["state"] in ("blocked", "waiting"), "nothing of it is lost"


def test_a_shared_task_may_fail_with_another_trial_and_the_child_still_starts(launcher):
    """With two trials a job, the parent's task ends as failed because of its neighbour."""
    spec, child, parents, children = two_specs(launcher, [0, 1], 2)
    broken = parents[1]
    launcher.submit(spec, "--slurm", "sbatch.hold=true", "--slurm", "trials_per_job=2")
    identity = job_of(parents[0]).id
    assert job_of(broken).id == identity
    text = (broken / "trial.json").read_text().replace('"lr": 0.05', '"lr": -1.0')
    (broken / "trial.json").write_text(text)
    launcher.submit(child, "--seeds", "0")
    launcher.cluster.ask("scontrol", "release", identity)
    launcher.wait_finished([parents[0], children[0]])
    assert journal(broken)[-1] == "failed"
