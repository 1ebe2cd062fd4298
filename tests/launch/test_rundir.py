"""The state of a run directory and the lease, with real processes."""

import json
import os
import subprocess
import sys
import time

import pytest

from launch.runs import journal, lease, rundir
from launch.runs.contents import Damaged
from launch.runs.rundir import RunDir
from tests.support.trials import PATIENCE, ROOT

HOLD = "import sys; from launch.runs.rundir import RunDir\nwith RunDir(sys.argv[1]).lease():\n"
HOLD += "    print('held', flush=True); sys.stdin.read()\n"


def holder(run_dir):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run_dir)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    return process


def test_a_live_process_keeps_others_out_and_a_dead_one_does_not(tmp_path):
    with holder(tmp_path) as process:
        assert RunDir(tmp_path).state() == "running"
        with (
            pytest.raises(lease.Busy, match=f"process {process.pid} on "),
            RunDir(tmp_path).lease(),
        ):
            pass
        process.kill()
    assert RunDir(tmp_path).state() == "waiting"
    with RunDir(tmp_path).lease():
        assert RunDir(tmp_path).state() == "running"
    assert not (tmp_path / "lease.json").exists()


def test_another_machines_lease_lives_as_long_as_its_heartbeat(tmp_path):
    with RunDir(tmp_path).lease():
        holder = json.loads((tmp_path / "lease.json").read_text())
    holder |= {"machine": "elsewhere", "host": "elsewhere", "pid": 1}
    (tmp_path / "lease.json").write_text(json.dumps(holder))
    with pytest.raises(lease.Busy), RunDir(tmp_path).lease():
        pass
    old = time.time() - lease.STALE_SECONDS - 1
    os.utime(tmp_path / "lease.json", (old, old))
    assert RunDir(tmp_path).state() == "waiting"
    with RunDir(tmp_path).lease():
        pass


def test_a_reused_process_number_is_not_the_holder(tmp_path):
    with RunDir(tmp_path).lease():
        holder = json.loads((tmp_path / "lease.json").read_text())
    (tmp_path / "lease.json").write_text(json.dumps(holder | {"born": "1"}))
    assert RunDir(tmp_path).state() == "waiting"


def test_only_one_of_many_takes_an_abandoned_lease(tmp_path):
    with holder(tmp_path) as process:
        process.kill()
    rivals = [
        subprocess.Popen(
            [sys.executable, "-c", HOLD, str(tmp_path)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(5)
    ]
    deadline = time.monotonic() + PATIENCE
    while sum(rival.poll() is None for rival in rivals) > 1:  # who has it waits for its input
        assert time.monotonic() < deadline
        time.sleep(0.05)
    outcomes = [rival.communicate() for rival in rivals]
    assert sum(out == b"held\n" for out, _ in outcomes) == 1
    assert sum(b"Busy" in err for _, err in outcomes) == 4


def test_the_last_events_of_a_long_journal(tmp_path):
    assert RunDir(tmp_path).last_events(3) == []
    with (tmp_path / "journal.jsonl").open("w") as file:
        for n in range(2000):
            event = {"event": "epoch", "time": 1.0, "epoch": n, "note": "é" * (n % 50)}
            file.write(json.dumps(event) + "\n")
        last = {"event": "failed", "time": 1.0, "traceback": "x" * 3 * rundir.TAIL_BYTES}
        file.write(json.dumps(last) + "\n")
        file.write('{"event": "to')
    everything, _ = RunDir(tmp_path).events()
    for least in (1, 2, 50, 5000):
        some = RunDir(tmp_path).last_events(least)
        assert len(some) >= min(least, 2001)
        assert some == everything[-len(some) :]
    assert len(RunDir(tmp_path).last_events(1)) < 200
    assert RunDir(tmp_path).last_event()["event"] == "failed"


def test_a_request_to_cancel_reaches_the_holder_and_can_be_taken_back(tmp_path):
    assert not RunDir(tmp_path).cancelled()
    with RunDir(tmp_path).lease() as held:
        assert not held.cancelled()
        RunDir(tmp_path).request_cancel()
        deadline = time.monotonic() + PATIENCE
        while not held.cancelled():
            assert time.monotonic() < deadline
            time.sleep(0.05)
    with RunDir(tmp_path).lease() as held:
        assert held.cancelled(), "at once: it was asked for while the run waited"
    RunDir(tmp_path).clear_cancel()
    RunDir(tmp_path).clear_cancel()
    with RunDir(tmp_path).lease() as held:
        assert not held.cancelled()


def test_states_follow_the_journal(tmp_path):
    journal = tmp_path / "journal.jsonl"
    for line, state in (
        ('{"event": "started", "time": 1}\n', "interrupted"),  # nobody is at it any more
        ('{"event": "failed", "time": 1, "error": "x"}\n', "failed"),
        ('{"event": "resumed", "time": 1}\n', "interrupted"),
        ('{"event": "fai', "interrupted"),  # torn
    ):
        with journal.open("a") as file:
            file.write(line)
        assert RunDir(tmp_path).state() == state
    events, offset = RunDir(tmp_path).events()
    assert [event["event"] for event in events] == ["started", "failed", "resumed"]
    with journal.open("a") as file:
        file.write('led", "time": 1}\n')
    assert RunDir(tmp_path).events(offset)[0] == [{"event": "failed", "time": 1}]
    (tmp_path / "result.json").write_text("{}")
    assert RunDir(tmp_path).state() == "finished"


def test_a_damaged_line_is_named(tmp_path):
    whole = '{"event": "started", "time": 1}\n'
    (tmp_path / "journal.jsonl").write_text(whole + '{"event": spoilt\n')
    for read in (lambda: RunDir(tmp_path).events(), lambda: RunDir(tmp_path).last_events(1)):
        with pytest.raises(Damaged, match=r"journal\.jsonl:2: not JSON"):
            read()
    offset = len(whole)
    with pytest.raises(Damaged, match=r"journal\.jsonl:2: not JSON"):
        RunDir(tmp_path).events(offset)
    (tmp_path / "trial.json").write_text("")
    with pytest.raises(Damaged, match=r"trial\.json: not JSON"):
        RunDir(tmp_path).trial  # noqa: B018


def test_of_an_epoch_journalled_twice_the_last_account_counts():
    def event(kind, **fields):
        return {"event": kind, "time": 1.0, **fields}

    twice = [event("started"), *(event("epoch", epoch=n, loss=n) for n in (1, 2, 3))]
    twice += [event("resumed", epoch=2, step=5), event("epoch", epoch=2, loss=20)]
    assert {n: e["loss"] for n, e in journal.curve(twice).items()} == {1: 1, 2: 20}, (
        "what came after the checkpoint is void"
    )
    anew = [*twice, event("started"), event("epoch", epoch=1, loss=100)]
    assert {n: e["loss"] for n, e in journal.curve(anew).items()} == {1: 100}
    points = [event("started"), event("point", point=1, at=0.1), event("interrupted")]
    points += [event("resumed"), event("point", point=1, at=0.2), event("point", point=2, at=0.3)]
    assert [e["at"] for e in journal.curve(points).values()] == [0.2, 0.3]
    former = [event("started"), event("epoch", epoch=1, at=0.1), event("finished")]
    assert list(journal.curve(former)) == [1], "a probe's points were epochs once"


def test_a_killed_holder_that_nobody_has_waited_for_is_dead(tmp_path):
    with holder(tmp_path) as process:
        process.kill()
        deadline = time.monotonic() + PATIENCE
        while RunDir(tmp_path).state() == "running":  # a zombie by now, as we have not waited
            assert time.monotonic() < deadline
            time.sleep(0.05)
        with RunDir(tmp_path).lease():
            pass
