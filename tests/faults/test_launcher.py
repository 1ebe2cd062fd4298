"""The launcher and its processes: dead and hanging workers, pipes nobody reads, Ctrl-C at any
moment. Real processes, pipes and signals.
"""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch import console
from launch.backends.local import pool
from launch.backends.local.pool import WorkerProcess
from launch.backends.queue import MOST_DEATHS, Trials
from rm.rundir.journal import Journal
from tests.support.commands import command, journal, run, running_pids, wait_for
from tests.support.processes import is_gone
from tests.support.trials import PATIENCE, ROOT, write_trial

RUN = str(ROOT / "launch" / "run.py")


def test_a_worker_that_died_with_a_request_on_its_way_ends_like_any_other(tmp_path):
    worker = WorkerProcess({})
    worker.process.kill()
    while not is_gone(worker.process.pid):
        time.sleep(0.001)
    worker.send(tmp_path)
    assert worker.close().startswith("its worker process ended with signal SIGKILL")


def test_a_worker_that_does_not_end_is_killed_with_what_it_started(monkeypatch):
    monkeypatch.setattr(pool, "CLOSE_SECONDS", 1.0)
    worker = WorkerProcess({})
    worker.process.send_signal(signal.SIGSTOP)
    assert "signal SIGKILL" in worker.close()
    assert is_gone(worker.process.pid)


def both_at_work(results, process):
    """The workers of two trials that have begun."""
    found = {}

    def look():
        found.update(running_pids(results))
        return len(found) == 2 and all("started" in journal(results, name) for name in found)

    wait_for(look, process)
    return found


@pytest.mark.cluster
def test_a_worker_killed_behind_a_launchers_back_loses_no_trial(write_spec, results):
    """The launcher stands still, both first trials finish, one worker dies: the request to it is
    on its way then.
    """
    process = command(write_spec(**{"epochs: 2": "epochs: 60"}), "--workers", "2")
    first = both_at_work(results, process)
    process.send_signal(signal.SIGSTOP)
    wait_for(lambda: all((results / "runs" / t / "result.json").exists() for t in first), process)
    os.kill(next(iter(first.values())), signal.SIGKILL)
    process.send_signal(signal.SIGCONT)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    assert len(list((results / "runs").glob("*/result.json"))) == 4


@pytest.mark.cluster
def test_two_signals_end_a_launcher_whose_workers_hang(write_spec, results):
    process = command(write_spec(**{"epochs: 2": "epochs: 400"}), "--workers", "2")
    for pid in both_at_work(results, process).values():
        os.kill(pid, signal.SIGSTOP)
    process.terminate()
    time.sleep(1)
    assert process.poll() is None, "it waits for their checkpoints"
    process.terminate()
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, err
    assert all(map(is_gone, running_pids(results).values()))


def test_settings_that_cannot_be_meant_are_refused_at_once(write_spec, results):
    for name, value in (("RM_CHECKPOINT_SECONDS", "5m"), ("RM_LOADER_WORKERS", "all")):
        code, out, err = run(write_spec(), environment={name: value})
        assert (code, out) == (2, "")
        assert f"error: {name} must be" in err
        assert not results.exists()


class _Silent:
    """A watcher that says nothing."""

    def on_start(self, run_dir): ...
    def on_death(self, run_dir, how): ...
    def on_wait(self, run_dir, for_whom): ...
    def on_end(self, run_dir, outcome): ...
    def tick(self): ...


def test_only_deaths_without_progress_fail_a_trial(tmp_path, tiny):
    run_dir = tmp_path / "trial"
    write_trial(run_dir, tiny)
    trials = Trials([run_dir], _Silent())
    with Journal(run_dir / "journal.jsonl") as journal:
        journal.append("started", epochs=3)
        for step in range(2 * MOST_DEATHS):
            trials.died(run_dir, "killed", stopping=False)
            journal.append("checkpoint", epoch=1, step=step)
        assert not trials.ended
        for _ in range(MOST_DEATHS):
            assert not trials.ended
            trials.died(run_dir, "killed", stopping=False)
    assert trials.ended[run_dir].status == "failed"
    assert "3 times without progress" in trials.ended[run_dir].error


def unread(*words, **options):
    """A command whose output nobody reads any more when it begins to write."""
    read, write = os.pipe()
    os.close(read)
    try:
        process = command(*words, stdout=write, **options)
    finally:
        os.close(write)
    _, err = process.communicate(timeout=PATIENCE)
    return process.returncode, err or ""


@pytest.mark.parametrize(
    "words", [("status",), ("plan",), ("plan", "--json"), ("status", "--json")]
)
def test_a_reader_that_has_left_is_no_error(write_spec, results, words):
    assert unread(words[0], write_spec(), *words[1:]) == (0, "")


def test_a_report_that_nobody_reads_is_written_all_the_same(write_spec, results, tmp_path):
    read, write = os.pipe()
    os.close(read)
    words = [sys.executable, str(ROOT / "analysis" / "report.py"), str(write_spec())]
    words += ["--output", str(tmp_path / "report"), "--format", "md"]
    done = subprocess.run(words, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "report" / "small.md").exists()


def test_only_our_own_output_counts_as_a_reader_that_has_left(capfd):
    """BrokenPipeError from elsewhere, such as a worker's pipe, is a failure that is said."""
    from launch.cli import _failed

    assert not console.reader_is_gone()
    assert _failed(BrokenPipeError(32, "Broken pipe")) == 1
    assert "error: Broken pipe" in capfd.readouterr().err


def test_closed_streams_and_an_ascii_terminal(write_spec, results):
    path = write_spec()
    for closed in ("<&-", ">&-", "2>&-", ">&- 2>&-"):
        words = ["sh", "-c", f'"$@" {closed}', "sh", sys.executable, RUN, "status", str(path)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
    greek = write_spec(name="greek.yaml", **{"RM:": "α · ω:", "RM < Baseline": "α · ω < Baseline"})
    ascii_only = {"PYTHONIOENCODING": "ascii"}
    code, out, err = run("status", greek, environment=ascii_only)
    assert (code, err) == (0, "")
    assert "\\u03b1 \\u00b7 \\u03c9" in out
    _, out, _ = run("status", greek, "--json", environment=ascii_only)
    assert {trial["row"] for trial in json.loads(out)["trials"]} == {"α · ω", "Baseline"}
    assert run("plan", greek, environment=ascii_only)[0] == 0


def on_a_terminal(*words, environment):
    main, terminal = pty.openpty()
    process = command(*words, stdout=terminal, environment=environment)
    os.close(terminal)
    found = b""
    try:
        while part := os.read(main, 65536):
            found += part
    except OSError:  # the terminal's end
        pass
    os.close(main)
    assert process.wait(PATIENCE) == 0
    return found


def test_no_color_is_honoured(write_spec, results):
    words = ("status", write_spec())
    assert b"\x1b[" in on_a_terminal(*words, environment={"NO_COLOR": ""})
    assert b"\x1b[" not in on_a_terminal(*words, environment={"NO_COLOR": "1"})


def is_importing(pid):
    """Whether a library of ours is loaded, so that Python itself is up, and Ctrl-C still just ends
    it."""
    with Path(f"/proc/{pid}/status").open() as file:
        masks = dict(line.split()[:2] for line in file if line.startswith("Sig"))
    caught = int(masks["SigCgt:"], 16) >> (signal.SIGINT - 1) & 1
    return not caught and "site-packages" in Path(f"/proc/{pid}/maps").read_text()


@pytest.mark.parametrize("moment", ["imports", "command"])
def test_ctrl_c_at_the_start_prints_no_traceback(write_spec, results, moment):
    process = command("status", write_spec(), "--watch")
    if moment == "command":
        assert "4 waiting" in process.stdout.readline()
    deadline = time.monotonic() + 20  # a moment that was missed makes the test no stricter
    while moment == "imports" and not is_importing(process.pid) and time.monotonic() < deadline:
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    assert "Traceback" not in out + err
    assert process.returncode in (-signal.SIGINT, 130, 0)  # 0: --watch was under way


def test_without_a_home_the_folder_for_temporary_files_is_home(tmp_path):
    """A container's user whom nobody told the machine about."""
    code = (
        "from launch import paths; print(paths.data_dir()); import os; print(os.environ['HOME'])"
    )
    unknown = ["unshare", "--user", "--map-user=12345", sys.executable, "-c", code]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    environment = {k: v for k, v in environment.items() if k not in ("HOME", "RM_DATA_DIR")}
    done = subprocess.run(
        unknown, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if "unshare" in done.stderr:
        pytest.skip("needs user namespaces")
    assert done.stdout == f"{tmp_path}/.cache/recursivemix\n{tmp_path}\n", done.stderr
