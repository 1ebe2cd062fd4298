"""Split brain: a worker that stood still for longer than its lease finds another's token, and
writes no more. The other machine is another PID namespace, as a container has.
"""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from launch.backends.queue import Trials
from launch.runs import lease
from launch.runs.rundir import RunDir
from launch.worker.worker import run_one
from rm.files import Permit
from rm.rundir import checkpoint
from rm.rundir.journal import Journal, read
from tests.support.processes import children_of
from tests.support.trials import PATIENCE, ROOT, deterministic, write_trial

ELSEWHERE = ("unshare", "--pid", "--uts", "--fork", "--kill-child")
TRAIN = "import json, sys; from pathlib import Path; from launch.worker.worker import run_one\n"
TRAIN += "print(json.dumps(run_one(Path(sys.argv[1]), lambda: False)))"


def has_namespaces():
    return subprocess.run([*ELSEWHERE, "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.cluster
@pytest.mark.skipif(not has_namespaces(), reason="needs root, for a PID namespace")
def test_a_worker_that_stood_still_leaves_its_successor_alone(tmp_path, tiny, monkeypatch):
    long = {**tiny, "train": {**tiny["train"], "epochs": 40}}
    for name in ("run", "undisturbed"):
        write_trial(tmp_path / name, long)
    run_dir = tmp_path / "run"
    environment = {**os.environ, "RM_THREADS": "1", "RM_CHECKPOINT_SECONDS": "0"}
    with subprocess.Popen(
        [*ELSEWHERE, sys.executable, "-c", TRAIN, str(run_dir)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as first:
        deadline = time.monotonic() + PATIENCE
        while [e["event"] for e in RunDir(run_dir).events()[0]].count("epoch") < 2:
            assert time.monotonic() < deadline
            assert first.poll() is None
            time.sleep(0.02)
        (trainer,) = children_of(first.pid)  # the process that runs in the new namespace
        os.kill(trainer, signal.SIGSTOP)
        assert run_one(run_dir, lambda: False)["outcome"] == "busy", "its heartbeat is fresh"
        old = time.time() - lease.STALE_SECONDS - 1
        os.utime(run_dir / "lease.json", (old, old))
        monkeypatch.setenv("RM_THREADS", "1")
        assert run_one(run_dir, lambda: False) == {"outcome": "finished", "error": None}
        left = {path.name: path.read_bytes() for path in run_dir.iterdir()}
        os.kill(trainer, signal.SIGCONT)
        answer = json.loads(first.communicate(timeout=PATIENCE)[0])
    assert answer["outcome"] == "busy"
    assert "another worker has taken over" in answer["error"]
    changed = [name for name in left if (run_dir / name).read_bytes() != left[name]]
    assert set(changed) <= {"log.txt"}
    assert [path.name for path in run_dir.iterdir() if path.name.endswith(".tmp")] == []
    events = [event["event"] for event in read(run_dir / "journal.jsonl")]
    assert events.count("finished") == 1
    assert run_one(tmp_path / "undisturbed", lambda: False)["outcome"] == "finished"
    assert deterministic(run_dir) == deterministic(tmp_path / "undisturbed")


@pytest.fixture
def foreign(tmp_path):
    """A lease that a machine elsewhere holds, alive just now."""
    with RunDir(tmp_path).lease():
        holder = json.loads((tmp_path / "lease.json").read_text())
    holder |= {"machine": "elsewhere", "host": "node7", "pid": 4711, "token": "theirs"}
    (tmp_path / "lease.json").write_text(json.dumps(holder))
    return tmp_path


def age(run_dir, seconds):
    then = time.time() - seconds
    os.utime(run_dir / "lease.json", (then, then))


@pytest.mark.parametrize("ahead", [600.0, -600.0])
def test_this_machines_clock_does_not_count(foreign, monkeypatch, ahead):
    monkeypatch.setattr(lease.time, "time", lambda: time.monotonic() + ahead)
    with pytest.raises(lease.Busy, match=r"process 4711 on node7.*can be taken over after 180 s"):
        RunDir(foreign).lease().__enter__()
    assert RunDir(foreign).state() == "running"
    os.utime(foreign / "lease.json", (1e9, 1e9))
    assert RunDir(foreign).state() == "waiting"


def test_a_heartbeat_from_the_future_ages_from_now_on(foreign):
    age(foreign, -3600)
    assert RunDir(foreign).state() == "running"
    assert abs((foreign / "lease.json").stat().st_mtime - time.time()) < 600
    age(foreign, lease.STALE_SECONDS + 1)
    with RunDir(foreign).lease():
        pass


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"token": "a"', b"\0" * 100])
def test_a_damaged_lease_holds_until_it_is_stale(tmp_path, content):
    (tmp_path / "lease.json").write_bytes(content)
    with pytest.raises(lease.Busy, match="not a lease; if nobody works there it can be taken in"):
        RunDir(tmp_path).lease().__enter__()
    age(tmp_path, lease.STALE_SECONDS + 1)
    with RunDir(tmp_path).lease() as held:
        held.permit.check()


def test_a_lost_lease_is_neither_touched_nor_removed_nor_written_under(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "CANCEL_SECONDS", 0.01)
    monkeypatch.setattr(lease, "HEARTBEAT_SECONDS", 0.0)
    path = tmp_path / "lease.json"
    with RunDir(tmp_path).lease() as held, Journal(tmp_path / "j", permit=held.permit) as journal:
        age(tmp_path, 100)
        deadline = time.monotonic() + PATIENCE
        while time.time() - path.stat().st_mtime > 50:  # our own is touched
            assert time.monotonic() < deadline
            time.sleep(0.01)
        journal.append("started")
        checkpoint.save(tmp_path, {"ours": 1}, held.permit)
        path.write_text(json.dumps(json.loads(path.read_text()) | {"token": "theirs"}))
        age(tmp_path, 100)
        before = path.stat().st_mtime
        names = sorted(os.listdir(tmp_path))  # noqa: PTH208
        for write in (
            lambda: journal.append("epoch", epoch=1),
            lambda: checkpoint.save(tmp_path, {"ours": 2}, held.permit),
        ):
            with pytest.raises(lease.Lost, match="another worker has taken over"):
                write()
        time.sleep(0.2)  # some heartbeats
        assert path.stat().st_mtime == before
        assert sorted(os.listdir(tmp_path)) == names  # noqa: PTH208
    assert json.loads(path.read_text())["token"] == "theirs"
    assert [event["event"] for event in read(tmp_path / "j")] == ["started"]


def test_two_writers_share_no_temporary_name_and_a_new_holder_clears_them(tmp_path):
    """Each write is held up before its rename, where both temporary files are there."""
    seen = []

    def look(other):
        def check():
            seen.append(sorted(path.name for path in tmp_path.glob("*.tmp")))
            if other and len(seen) == 2:
                checkpoint.save(tmp_path, {"writer": 2}, other)

        return check

    checkpoint.save(tmp_path, {"writer": 1}, Permit("one", look(Permit("two", look(None)))))
    assert ["checkpoint.pt.one.tmp", "checkpoint.pt.two.tmp"] in seen
    leftovers = ("checkpoint.pt.dead.tmp", "weights.pt.dead.tmp", "result.json.dead.tmp")
    for name in (*leftovers, "trial.json.launcher.tmp"):
        (tmp_path / name).write_bytes(b"x")
    with RunDir(tmp_path).lease():
        assert [path.name for path in tmp_path.glob("*.tmp")] == ["trial.json.launcher.tmp"]


@pytest.mark.parametrize("withdrawn_at", [1, 2, 3])
def test_a_writer_whose_leave_is_withdrawn_leaves_no_file(tmp_path, withdrawn_at):
    """Before, within and after the seconds that a checkpoint takes to be written."""
    checkpoint.save(tmp_path, {"writer": 1})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    asked = []

    def check():
        asked.append(None)
        if len(asked) == withdrawn_at:
            raise lease.Lost("another worker has taken over")

    if withdrawn_at == 3:  # asked again where writing fails
        (tmp_path / "checkpoint.prev.pt").mkdir()
    with pytest.raises(lease.Lost):
        checkpoint.save(tmp_path, {"writer": 2}, Permit("two", check))
    assert len(asked) == withdrawn_at
    assert {
        path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()
    } == before


def test_who_waits_says_for_whom(tmp_path, tiny):
    said = []

    class Watcher:
        def on_wait(self, run_dir, for_whom):
            said.append(for_whom)

    write_trial(tmp_path, tiny)
    with RunDir(tmp_path).lease():
        trials = Trials([tmp_path], Watcher())
        for _ in range(2):
            assert trials.take(1) == tmp_path or said
            trials.answered(tmp_path, run_one(tmp_path, lambda: False))
        assert said == [f"{tmp_path}: worked on by process {os.getpid()} on {os.uname().nodename}"]
