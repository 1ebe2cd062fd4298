"""What sites, controllers and people do around sbatch: nothing is submitted twice, no stranger's
job is touched, and no job runs other code than was planned.
"""

import json
import shutil
import signal

import pytest

from launch.backends.slurm import cli
from launch.backends.slurm.backend import SlurmBackend
from tests.support.slurm.launcher import Launcher, journal, real, wrapped_sbatch
from tests.support.trials import PATIENCE

HELD = ("--slurm", "sbatch.hold=true")


@pytest.fixture(autouse=True)
def _ask_this_cluster(launcher, monkeypatch):
    monkeypatch.setenv("SLURM_CONF", launcher.environment["SLURM_CONF"])
    monkeypatch.setenv("RM_RESULTS_DIR", str(launcher.results))
    cli.configuration.cache_clear()


def names(launcher: Launcher, *states: str) -> list[str]:
    """Names of the queued array tasks, one for each."""
    chosen = [f"--states={','.join(states)}"] if states else []
    return launcher.cluster.ask("squeue", "-h", "-r", "-o", "%j", *chosen).split()


def end_of(launcher: Launcher, run_dir) -> str:
    """How SLURM says its job ended; empty while it has not."""
    identity = json.loads((run_dir / "jobs.jsonl").read_text().splitlines()[-1])["id"]
    shown = launcher.cluster.ask("squeue", "-h", "-r", "--states=all", "-o", "%i %T")
    words = dict(line.split() for line in shown.splitlines())
    return words[identity] if words[identity] not in ("PENDING", "RUNNING", "COMPLETING") else ""


@pytest.mark.parametrize(
    "script",
    [
        'SBATCH "$@"; exit 1',
        "SBATCH \"$@\"; echo 'filter: noted' >&2; exit 3",
        'SBATCH "$@" > /dev/null; kill -9 $$',
        'echo "Your quota is at 91 %"; SBATCH "$@"',
        'echo 4711; SBATCH "$@"; echo',
    ],
    ids=["exit 1", "a filter's word", "killed", "a notice", "a notice that is a number"],
)
def test_sbatch_took_the_job_and_said_otherwise(launcher, script):
    spec = launcher.spec(seeds=[0, 1], epochs=2)
    path = wrapped_sbatch(launcher, script.replace("SBATCH", real("sbatch")))
    assert "2 submitted" in launcher.submit(spec, *HELD, **path)
    assert (launcher.folder / "bin" / "calls").read_text() == "x\n"
    assert "2 of 2 have a job" in launcher.submit(spec, *HELD)
    assert len(names(launcher)) == 2
    code, out, err = launcher.run("cancel", spec)
    assert code == 0, err
    assert out.count("taken out of the scheduler's queue") == 2, out + err
    assert names(launcher) == []


def test_another_job_with_our_id_is_left_alone(launcher, tmp_path):
    """The controller is killed behind sbatch and forgets the job; the next one gets its id."""
    mine = launcher.spec(seeds=[0], epochs=2)
    state = launcher.cluster.folder / "state"
    launcher.cluster.end("slurmctld")
    shutil.copytree(state, tmp_path / "state")
    launcher.cluster.start_controller()
    launcher.submit(mine, *HELD)
    launcher.cluster.end("slurmctld", kill=True)
    shutil.rmtree(state)
    shutil.copytree(tmp_path / "state", state)
    launcher.cluster.start_controller()
    words = ("--parsable", "--hold", "--job-name=stranger", "--array=0-1", "--wrap=true")
    array = launcher.cluster.ask("sbatch", *words, "--output=/dev/null").strip()
    (run_dir,) = launcher.run_dirs
    (job,) = SlurmBackend.jobs([run_dir]).values()
    assert (job.id, job.state) == (f"{array}_0", "gone"), "SLURM gave the id again"
    code, _, err = launcher.run("cancel", mine)
    assert code == 0, err
    assert names(launcher) == ["stranger"] * 2
    assert "1 submitted" in launcher.submit(mine, *HELD)
    assert sorted(names(launcher))[1:] == ["stranger"] * 2
    assert [job.state for job in SlurmBackend.jobs([run_dir]).values()] == ["pending"]


def test_a_job_of_another_cluster_is_neither_withdrawn_nor_doubled(launcher):
    spec = launcher.spec(seeds=[0], epochs=2)
    launcher.submit(spec, *HELD)
    jobs = launcher.run_dirs[0] / "jobs.jsonl"
    assert json.loads(jobs.read_text())["cluster"] == "test"
    jobs.write_text(jobs.read_text().replace('"test"', '"elsewhere"'))
    code, out, _ = launcher.run("cancel", spec)
    assert (code, "the scheduler could not be asked" in out) == (0, True)
    assert len(names(launcher)) == 1
    code, _, err = launcher.run(spec, "--backend", "slurm", *HELD)
    assert (code, "was given to the cluster elsewhere" in err) == (2, True), err


def test_after_a_power_cut_what_was_submitted_is_found_again(launcher):
    spec = launcher.spec(seeds=[0, 1], epochs=2)
    launcher.submit(spec, *HELD)
    (folder,) = launcher.results.glob("slurm/rm-*")
    (folder / "submitted.json").unlink()
    for run_dir in launcher.run_dirs:
        (run_dir / "jobs.jsonl").write_bytes(b"")
    assert "2 of 2 have a job" in launcher.submit(spec, *HELD)
    assert len(names(launcher)) == 2


def damage(tree) -> None:
    """As ext4 leaves files that were never synced."""
    for path in tree.rglob("*"):
        if path.is_file():
            path.chmod(0o600)
            path.write_bytes(b"")


@pytest.mark.parametrize("harm", [damage, shutil.rmtree], ids=["emptied", "removed"])
def test_a_job_whose_snapshot_is_not_whole_does_not_end_well(launcher, harm):
    spec = launcher.spec(seeds=[0], epochs=2)
    launcher.submit(spec, *HELD)
    (run_dir,) = launcher.run_dirs
    (tree,) = (launcher.results / "snapshots").iterdir()
    harm(tree)
    (job,) = SlurmBackend.jobs([run_dir]).values()
    launcher.cluster.ask("scontrol", "release", job.id)
    launcher.wait_until(lambda: end_of(launcher, run_dir), "its job has ended")
    assert end_of(launcher, run_dir) == "FAILED"
    assert f"the snapshot {tree} is gone or damaged" in launcher.logs()
    assert journal(run_dir) == []
    launcher.submit(spec)
    launcher.wait_finished([run_dir])
    assert journal(run_dir).count("started") == 1


def test_a_setup_line_that_fails_ends_the_job(launcher):
    lines = ("setup=false  # a comment", "setup=if true; then", "setup=true; fi")
    spec = launcher.spec(seeds=[0], epochs=2)
    launcher.submit(spec, *(word for line in lines for word in ("--slurm", line)))
    (run_dir,) = launcher.run_dirs
    launcher.wait_until(lambda: end_of(launcher, run_dir), "its job has ended")
    assert "setup failed: false" not in launcher.logs(), "together they are one command"
    launcher.wait_finished([run_dir])
    spec = launcher.spec(seeds=[1], epochs=2)
    launcher.submit(spec, "--slurm", "setup=true", "--slurm", "setup=false  # a comment")
    _, run_dir = launcher.run_dirs
    launcher.wait_until(lambda: end_of(launcher, run_dir), "its job has ended")
    assert end_of(launcher, run_dir) == "FAILED"
    assert "setup failed: false" in launcher.logs()


def test_run_behind_cancel_while_slurm_is_still_completing(launcher):
    spec = launcher.spec(seeds=[0], epochs=120)
    launcher.cluster.cleaning.touch()
    try:
        launcher.submit(spec)
        (run_dir,) = launcher.run_dirs
        launcher.wait_until(lambda: journal(run_dir).count("epoch") >= 1, "it trains")
        code, out, err = launcher.run("cancel", spec)
        assert (code, "checkpointed and stopped" in out) == (0, True), out + err
        launcher.wait_until(lambda: "COMPLETING" in launcher.cluster.ask(*QUEUE), "completing")
        assert "1 submitted" in launcher.submit(spec, *HELD)
        assert "COMPLETING" in launcher.cluster.ask(*QUEUE), "the old one is still there"
    finally:
        launcher.cluster.cleaning.unlink()


QUEUE = ("squeue", "-h", "--states=all", "-o", "%T")


def test_who_waits_for_a_hanging_sbatch_says_for_whom(launcher):
    """Its launcher is killed; sbatch holds the lock as long as it may still submit."""
    spec = launcher.spec(seeds=[0], epochs=2)
    gate = launcher.folder / "gate"
    script = f'while [ ! -e {gate} ]; do sleep 0.1; done; exec {real("sbatch")} "$@"'
    path = wrapped_sbatch(launcher, script)
    first = launcher.start(spec, "--backend", "slurm", *HELD, **path)
    launcher.wait_until((launcher.folder / "bin" / "calls").exists, "sbatch is called")
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=PATIENCE)
    second = launcher.start(spec, "--backend", "slurm", *HELD)
    said = ""
    while "waiting for" not in said:
        said = second.stderr.readline()
        assert said, "it ended"
    assert f"waiting for process {first.pid} on " in said
    gate.touch()
    _, err = second.communicate(timeout=PATIENCE)
    assert (second.returncode, "1 of 1 have a job" in err) == (0, True), err
    assert len(names(launcher)) == 1


def test_a_refusal_amidst_arrays_is_no_stop(launcher):
    """MaxArraySize is 5: the first array is in when the partition closes."""
    spec = launcher.spec(seeds=list(range(7)), epochs=2)
    close = f"{real('scontrol')} update PartitionName=main State=INACTIVE"
    script = f'[ $(wc -l < $calls) -gt 1 ] && {close}; exec {real("sbatch")} "$@"'
    path = wrapped_sbatch(launcher, script)
    try:
        code, _, err = launcher.run(spec, "--backend", "slurm", *HELD, **path)
    finally:
        launcher.cluster.ask("scontrol", "update", "PartitionName=main", "State=UP")
    assert code == 1, err
    assert "5 submitted, 2 unsubmitted" in err
    assert "the same command submits it" in err
    assert "stopped" not in err
    assert "5 queued, 2 submitted" in launcher.submit(spec, *HELD)


def test_what_is_held_says_what_lets_it_go(launcher):
    spec = launcher.spec(seeds=[0], epochs=2)
    launcher.submit(spec, *HELD)
    (job,) = SlurmBackend.jobs(launcher.run_dirs).values()
    code, out, err = launcher.run("status", spec, "--json")
    assert code == 0, err
    (trial,) = json.loads(out)["trials"]
    assert trial["note"] == f"it is held; `scontrol release {job.id}` lets it go"


@pytest.mark.parametrize("text", ["", '{"backend": "slurm", "id": [7]}\n', "\0\0\0\n"])
def test_a_damaged_list_of_jobs_is_written_again(launcher, text):
    spec = launcher.spec(seeds=[0], epochs=2)
    launcher.submit(spec, *HELD)
    (run_dir,) = launcher.run_dirs
    before = json.loads((run_dir / "jobs.jsonl").read_text())
    (run_dir / "jobs.jsonl").write_text(text)
    (folder,) = launcher.results.glob("slurm/rm-*")
    if not text:  # nothing to notice, but by the submission that was never noted as made
        (folder / "submitted.json").unlink()
    assert "1 of 1 have a job" in launcher.submit(spec, *HELD)
    after = json.loads((run_dir / "jobs.jsonl").read_text())
    assert {**after, "time": 0} == {**before, "time": 0}
    assert len(names(launcher)) == 1
