"""Disks: without power, full, read-only, of a group. Real file systems."""

import grp
import os
import stat
import subprocess
import sys
import time

import pytest

from launch.runs.rundir import RunDir
from launch.spec.load import load_spec
from launch.worker.worker import run_one
from tests.support import disks
from tests.support.commands import run
from tests.support.mutations import said
from tests.support.trials import PATIENCE, ROOT, deterministic, write_trial

mounts = pytest.mark.skipif(not disks.can_mount(), reason="needs root, to mount a disk")
TRAIN = "import sys; from pathlib import Path; from launch.worker.worker import run_one\n"
TRAIN += "print(run_one(Path(sys.argv[1]), lambda: False))"


@mounts
def test_a_power_cut_behind_the_planner_leaves_whole_run_directories(tmp_path, write_spec):
    """What is not there can be made again; what is there is whole."""
    path = write_spec()
    with disks.ext4(tmp_path) as disk:
        plan = [sys.executable, "-c", PREPARE, str(path), str(disk.place / "results" / "runs")]
        subprocess.run(plan, cwd=ROOT, check=True)
        disk.cut_power()
        disk.again()
        for trial in load_spec(path).trials:
            here = RunDir(disk.place / "results" / "runs" / trial.id)
            assert here.trial["id"] == trial.id
            assert [use["spec"] for use in here.uses] == ["small"]
            assert here.damage() is None


PREPARE = """
import sys
from pathlib import Path
from launch.plan import make_plan
from launch.runs.create import prepare
from launch.spec.load import load_spec
runs = Path(sys.argv[2])
prepare(make_plan([load_spec(Path(sys.argv[1]))], runs).uses, runs)
"""


@pytest.mark.cluster
@mounts
def test_a_power_cut_in_training_costs_no_bit(tmp_path, tiny, monkeypatch):
    monkeypatch.setenv("RM_THREADS", "1")
    long = {**tiny, "train": {**tiny["train"], "epochs": 30}}
    write_trial(tmp_path / "undisturbed", long)
    with disks.ext4(tmp_path) as disk:
        run_dir = disk.place / "runs" / "trial"
        write_trial(run_dir, long)
        os.sync()  # this trial.json is the test's own
        environment = {**os.environ, "RM_CHECKPOINT_SECONDS": "0.2"}
        for cut in range(2):
            words = [sys.executable, "-c", TRAIN, str(run_dir)]
            with subprocess.Popen(words, cwd=ROOT, env=environment) as process:
                deadline, before = time.monotonic() + PATIENCE, RunDir(run_dir).position()
                while RunDir(run_dir).position() == before:
                    assert process.poll() is None, "it ended before the power was cut"
                    assert time.monotonic() < deadline
                    time.sleep(0.02)
                disk.cut_power()
                process.kill()
            disk.again()
            here = RunDir(run_dir)
            assert here.damage() is None
            assert here.state() == "interrupted", f"cut {cut}"
            assert here.position() != [1, 0], "its journal says what its checkpoint has"
        assert run_one(run_dir, lambda: False)["outcome"] == "finished"
        disk.cut_power()
        disk.again()
        assert here.is_finished()
        assert here.has("weights.pt")
        monkeypatch.delenv("RM_CHECKPOINT_SECONDS", raising=False)
        run_one(tmp_path / "undisturbed", lambda: False)
        assert deterministic(run_dir) == deterministic(tmp_path / "undisturbed")


@pytest.mark.cluster
@mounts
def test_a_full_disk_is_said_and_the_same_command_goes_on_with_room(
    tmp_path, write_spec, monkeypatch
):
    path = write_spec()
    with disks.tmpfs(tmp_path / "small", "200k") as small:
        monkeypatch.setenv("RM_RESULTS_DIR", str(small))
        code, out, err = run(path, "--workers", "1")
        assert code == 1
        assert "Traceback" not in out + err
        assert "No space left on device" in err
        for words in (("status", str(path)), ("retry", str(path)), ("cancel", str(path))):
            status, text = said(*words)
            assert status in (0, 1)
            assert "Traceback" not in text
        disks.remount(small, "size=50M")
        code, out, err = run(path, "--workers", "1")
        assert code == 0, err
        assert "4 finished" in err


@mounts
def test_a_read_only_results_folder_can_be_looked_at(tmp_path, write_spec, monkeypatch):
    path = write_spec()
    with disks.tmpfs(tmp_path / "results", "10M") as place:
        monkeypatch.setenv("RM_RESULTS_DIR", str(place))
        first = load_spec(path).trials[0]
        write_trial(place / "runs" / first.id, {})
        (place / "runs" / first.id / "journal.jsonl").write_text('{"event":"started","time":1}\n')
        disks.remount(place, "ro")
        assert said("status", str(path))[0] == 0
        assert said("logs", first.id)[0] == 0
        for words in (("run", str(path)), ("cancel", str(path))):
            code, text = said(*words)
            assert code in (0, 1)
            assert "Read-only file system" in text
            assert "Traceback" not in text


def test_a_groups_folder_stays_shared(tmp_path, tiny):
    """setgid and umask 002: what one person makes another one of the group can go on with."""
    group = next(entry.gr_gid for entry in grp.getgrall() if entry.gr_gid != os.getgid())
    run_dir = tmp_path / "trial"
    try:
        os.chown(tmp_path, -1, group)
    except PermissionError:
        group = os.getgid()
    tmp_path.chmod(0o2775)
    before = os.umask(0o002)
    try:
        write_trial(run_dir, tiny)
        run_one(run_dir, lambda: True)
        RunDir(run_dir).request_cancel()
    finally:
        os.umask(before)
    found = {path.name: path.stat() for path in run_dir.iterdir()}
    assert {"journal.jsonl", "checkpoint.pt", "cancel", "provenance.json", ".lease.lock"} <= set(
        found
    )
    wrong = {
        name: oct(entry.st_mode)
        for name, entry in found.items()
        if stat.S_IMODE(entry.st_mode) & 0o660 != 0o660 or entry.st_gid != group
    }
    assert wrong == {}
    assert run_dir.stat().st_mode & 0o2070 == 0o2070
