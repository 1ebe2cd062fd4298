"""The state of a run directory and the lease, with real processes."""

import json
import os
import subprocess
import sys
import time

import pytest

from launch.runs import rundir
from tests.support.trials import ROOT

HOLD = (
    "import sys, time; from pathlib import Path; from launch.runs import rundir\nwith "
    "rundir.lease(Path(sys.argv[1])):\n"
)
HOLD += "    print('held', flush=True); time.sleep(60)\n"


def holder(run_dir):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run_dir)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    return process


def test_a_live_process_keeps_others_out_and_a_dead_one_does_not(tmp_path):
    with holder(tmp_path) as process:
        assert rundir.state(tmp_path) == "running"
        with (
            pytest.raises(rundir.Busy, match=f"process {process.pid} on "),
            rundir.lease(tmp_path),
        ):
            pass
        process.kill()
    assert rundir.state(tmp_path) == "waiting"
    with rundir.lease(tmp_path):
        assert rundir.state(tmp_path) == "running"
    assert not (tmp_path / "lease.json").exists()


def test_another_machines_lease_lives_as_long_as_its_heartbeat(tmp_path):
    with rundir.lease(tmp_path):
        lease = json.loads((tmp_path / "lease.json").read_text())
    lease |= {"machine": "elsewhere", "host": "elsewhere", "pid": 1}
    (tmp_path / "lease.json").write_text(json.dumps(lease))
    with pytest.raises(rundir.Busy), rundir.lease(tmp_path):
        pass
    old = time.time() - rundir.STALE_SECONDS - 1
    os.utime(tmp_path / "lease.json", (old, old))
    assert rundir.state(tmp_path) == "waiting"
    with rundir.lease(tmp_path):
        pass


def test_a_reused_process_number_is_not_the_holder(tmp_path):
    with rundir.lease(tmp_path):
        lease = json.loads((tmp_path / "lease.json").read_text())
    (tmp_path / "lease.json").write_text(json.dumps(lease | {"born": "1"}))
    assert rundir.state(tmp_path) == "waiting"


def test_only_one_of_many_takes_an_abandoned_lease(tmp_path):
    with holder(tmp_path) as process:
        process.kill()
    code = HOLD.replace("time.sleep(60)", "time.sleep(5)")
    rivals = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(5)
    ]
    outcomes = [rival.communicate() for rival in rivals]
    assert sum(out == b"held\n" for out, _ in outcomes) == 1
    assert sum(b"Busy" in err for _, err in outcomes) == 4


def test_the_last_events_of_a_long_journal(tmp_path):
    assert rundir.last_events(tmp_path, 3) == []
    with (tmp_path / "journal.jsonl").open("w") as file:
        for n in range(2000):
            file.write(json.dumps({"event": "epoch", "epoch": n, "note": "é" * (n % 50)}) + "\n")
        file.write(
            json.dumps({"event": "failed", "traceback": "x" * 3 * rundir.TAIL_BYTES}) + "\n"
        )
        file.write('{"event": "to')
    everything, _ = rundir.read_events(tmp_path)
    for least in (1, 2, 50, 5000):
        some = rundir.last_events(tmp_path, least)
        assert len(some) >= min(least, 2001)
        assert some == everything[-len(some) :]
    assert len(rundir.last_events(tmp_path, 1)) < 200
    assert rundir.last_event(tmp_path)["event"] == "failed"


def test_a_request_to_cancel_reaches_the_holder_and_can_be_taken_back(tmp_path):
    assert not rundir.cancelled(tmp_path)
    with rundir.lease(tmp_path) as cancelled:
        assert not cancelled()
        rundir.request_cancel(tmp_path)
        deadline = time.monotonic() + 60
        while not cancelled():
            assert time.monotonic() < deadline
            time.sleep(0.05)
    with rundir.lease(tmp_path) as cancelled:
        assert cancelled(), "at once: it was asked for while the run waited"
    rundir.clear_cancel(tmp_path)
    rundir.clear_cancel(tmp_path)
    with rundir.lease(tmp_path) as cancelled:
        assert not cancelled()


def test_states_follow_the_journal(tmp_path):
    journal = tmp_path / "journal.jsonl"
    for line, state in (
        ('{"event": "started"}\n', "interrupted"),  # nobody is at it any more
        ('{"event": "failed", "error": "x"}\n', "failed"),
        ('{"event": "resumed"}\n', "interrupted"),
        ('{"event": "fai', "interrupted"),  # torn
    ):
        with journal.open("a") as file:
            file.write(line)
        assert rundir.state(tmp_path) == state
    events, offset = rundir.read_events(tmp_path)
    assert [event["event"] for event in events] == ["started", "failed", "resumed"]
    with journal.open("a") as file:
        file.write('led"}\n')
    assert rundir.read_events(tmp_path, offset)[0] == [{"event": "failed"}]
    (tmp_path / "result.json").write_text("{}")
    assert rundir.state(tmp_path) == "finished"
