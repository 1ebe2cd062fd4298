"""status, logs, cancel and retry, on real local runs."""

import json
import os
import platform
import pty
import re
import signal
import subprocess
import sys

import pytest

from launch.runs.rundir import RunDir
from launch.spec.load import load_spec
from tests.support import inprocess
from tests.support.commands import command, journal, run, running_pids, trials, wait_for
from tests.support.trials import PATIENCE, ROOT

pytestmark = pytest.mark.usefixtures("results")

LONG = {"epochs: 2": "epochs: 240"}


def counts(out):
    return json.loads(out)["counts"]


def launched(path, results, *words):
    """A launcher with two workers, both past their first epoch."""
    process = command(path, "--workers", "2", *words)
    wait_for(lambda: len(running_pids(results)) == 2, process)
    wait_for(
        lambda: all(journal(results, t).count("epoch") >= 1 for t in running_pids(results)),
        process,
    )
    return process


@pytest.mark.cluster
def test_status_and_cancel_while_trials_run(write_spec, results):
    """Two run and two wait; one of each is cancelled, then all; `run` goes on with what was
    cancelled.
    """
    path = write_spec(**LONG)
    launcher = launched(path, results)
    code, out, err = run("status", path, "--json")
    assert code == 0, err
    assert counts(out) == {"running": 2, "waiting": 2}
    for trial in trials(out):
        if trial["state"] == "running":
            assert trial["where"] == platform.node()
            assert 1 <= trial["epoch"] < trial["epochs"] == 240
            assert trial["seconds_left"] > 0
            assert trial["heartbeat_age"] < 3600
        else:
            assert (trial["epoch"], trial["seconds_left"], trial["job"]) == (0, None, None)
    code, out, _ = run("status", path)
    assert re.search(r"small +Baseline +0 +[0-9a-f]{12} +running +\d+/240 +\d+ (s|min) ", out)
    assert "4 trials: 2 running, 2 waiting" in out
    assert "\x1b" not in out

    one, queued = next(iter(running_pids(results))), load_spec(path).trials[-1].id
    code, out, err = run("cancel", one[:8], queued)
    assert code == 0, err
    assert f"{one}: checkpointed and stopped" in out
    assert f"{queued}: will not start" in out
    assert journal(results, one)[-2:] == ["checkpoint", "interrupted"]
    code, out, _ = run("status", path, "--json")
    states = {trial["id"]: (trial["state"], trial["note"]) for trial in trials(out)}
    assert states[one] == states[queued] == ("interrupted", "cancelled")
    assert launcher.poll() is None, "the others go on"

    code, out, err = run("cancel", path, "--json")
    assert code == 0, err
    words = {trial["id"]: trial["done"] for trial in trials(out)}
    assert words.pop(queued) == words.pop(one) == "waiting"
    assert set(words.values()) <= {"stopped", "waiting"}
    launcher.communicate(timeout=PATIENCE)
    assert launcher.returncode == 130
    code, out, _ = run("status", path, "--json")
    assert counts(out) == {"interrupted": 4}
    assert journal(results, queued) == []

    launcher = command(path, "--where", "method=Baseline", "--seeds", "0")
    wait_for(lambda: "resumed" in journal(results, load_spec(path).trials[0].id), launcher)
    launcher.send_signal(signal.SIGINT)
    _, err = launcher.communicate(timeout=PATIENCE)
    assert launcher.returncode == 130, err


@pytest.mark.cluster
def test_a_failed_trial_its_logs_and_its_retry(write_spec, results):
    """Weights that cannot be written: failed. The others finish; `retry` runs it alone, and once
    there is room for them to the end.
    """
    path = write_spec()
    broken = load_spec(path).trials[1]
    run_dir = results / "runs" / broken.id
    in_the_way = run_dir / "weights.pt"
    in_the_way.mkdir(parents=True)
    code, _, err = run(path)
    assert code == 1, err
    code, out, _ = run("status", path, "--json")
    assert counts(out) == {"finished": 3, "failed": 1}
    failed = next(trial for trial in trials(out) if trial["id"] == broken.id)
    assert failed["state"] == "failed"
    assert "weights.pt" in failed["note"]

    code, out, err = run("logs", broken.id[:6])
    assert code == 0, err
    assert f"{broken.id}: failed" in err
    assert "IsADirectoryError" in out
    assert "Traceback (most recent call last)" in out

    before = {t.id: journal(results, t.id) for t in load_spec(path).trials}
    code, _, err = run("retry", path)
    assert code == 1
    assert "1 failed and 0 lost are tried again" in err
    in_the_way.rmdir()
    code, out, err = run("retry", path, "--json")
    assert code == 0, err
    assert [(trial["id"], trial["state"]) for trial in trials(out)] == [(broken.id, "finished")]
    after = {t.id: journal(results, t.id) for t in load_spec(path).trials}
    assert before.pop(broken.id)[-1] == "failed"
    events = after.pop(broken.id)
    assert (events.count("failed"), events[-1]) == (2, "finished")
    assert after == before
    code, _, err = run("retry", path)
    assert code == 0
    assert "nothing has failed and nothing is lost" in err


@pytest.mark.cluster
def test_a_killed_workers_traceback_comes_from_the_journal(write_spec, results):
    path = write_spec(**{"lr: 0.05": "lr: 1.0e30", "[0, 1]": "[0]"})
    code, out, err = run(path, "--json", "--where", "method=Baseline")
    assert (code, trials(out)[0]["state"]) == (1, "failed")
    assert "the loss is not finite at step" in err
    trial = load_spec(path).trials[0].id
    log = results / "runs" / trial / "log.txt"
    assert "Traceback" in log.read_text()
    log.unlink()
    code, out, _ = run("logs", trial)
    assert "failed: Diverged: the loss is not finite" in out
    assert "Traceback (most recent call last)" in out
    code, out, _ = run("logs", trial, "--json")
    assert json.loads(out)["failures"][0]["traceback"].startswith("Traceback")
    code, out, _ = run("status", path)
    assert re.search(rf"{trial} +failed .*the loss is not finite", out)


@pytest.mark.cluster
def test_logs_follow_until_the_trial_ends(write_spec, results):
    path = write_spec(**{"epochs: 2": "epochs: 12"})
    trial = load_spec(path).trials[-1].id
    launcher = command(path, "--workers", "2")
    wait_for(lambda: (results / "runs" / trial).exists(), launcher)
    code, out, err = run("logs", "-f", trial)  # it is queued behind others
    assert code == 0, err
    assert [int(n) for n in re.findall(r"epoch (\d+)/12: .*train_loss", out)] == list(range(1, 13))
    assert f"{trial}: finished, epoch 12 of 12" in err
    launcher.communicate(timeout=PATIENCE)


@pytest.mark.cluster
def test_watching_ends_when_all_has_ended(write_spec, results):
    path = write_spec()
    launcher = command(path)
    wait_for(lambda: (results / "runs").exists(), launcher)
    code, out, err = run("status", path, "--watch")
    assert code == 0, err
    assert out.splitlines()[-1].endswith("4 trials: 4 finished")
    launcher.communicate(timeout=PATIENCE)


@pytest.mark.cluster
def test_the_live_table_on_a_terminal(write_spec, results):
    path = write_spec(**{"[0, 1]": "[0]"})
    inprocess.train(path, results)
    master, slave = pty.openpty()
    words = [sys.executable, str(ROOT / "launch" / "run.py"), "status", str(path), "--watch"]
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "160", "LINES": "30"}
    with subprocess.Popen(words, stdout=slave, stderr=slave, env=environment) as process:
        os.close(slave)
        seen = b""
        while True:
            try:
                data = os.read(master, 65536)
            except OSError:
                break
            if not data:
                break
            seen += data
    assert process.returncode == 0
    text = seen.decode()
    assert "\x1b[32mfinished" in text
    assert "2 trials: 2 finished" in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["logs", "zzz"], "no trial in .* begins with 'zzz'"),
        (["cancel", "zzz"], "no trial in .* begins with 'zzz'"),
        (["logs", "ab"], "'ab' is how several trials begin: ab1, ab2"),
        (["logs", "ab1", "-f", "--json"], "it does not go with -f"),
        (["cancel", "none.yaml"], "none.yaml: there is no such file"),
        (["retry", "experiments/quickstart.yaml", "--backend", "slum"], "unknown backend 'slum'"),
    ],
)
def test_what_is_not_there(results, words, said):
    for name in ("ab1", "ab2"):
        (results / "runs" / name).mkdir(parents=True)
    code, _, err = run(*words)
    assert code == 2
    assert re.search(said, err)
    assert "Traceback" not in err


def test_a_run_that_was_never_begun_is_not_cancelled(write_spec, results):
    code, out, err = run("cancel", write_spec())
    assert code == 0, err
    assert out.count("was never started") == 4
    assert not results.exists()


def test_cancelling_what_is_finished_changes_nothing(write_spec, results):
    path = write_spec(**{"[0, 1]": "[0]"})
    inprocess.train(path, results)
    _, out, _ = run("cancel", path)
    assert out.count("finished already") == 2
    assert not list((results / "runs").glob("*/cancel"))
    assert {RunDir(run_dir).state() for run_dir in (results / "runs").iterdir()} == {"finished"}


@pytest.mark.cluster
def test_doctor_on_a_machine_without_a_cluster(write_spec, results, tmp_path):
    spec = write_spec()
    code, out, err = run("doctor", spec)
    assert code == 0, out + err
    assert re.search(r"^ok +Python +3\.\d+.*, torch ", out, re.MULTILINE)
    assert re.search(r"^ok +data digits +1,000 training and 797 test images", out, re.MULTILINE)
    nowhere = {
        "RM_DATA_DIR": str(tmp_path / "none"),
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
        "RM_TRACKING": "on",
        "PATH": "/nowhere",
    }
    cifar = write_spec(**{"name: digits, size: 16, limit: 70, test_limit: 60": "name: cifar10"})
    code, out, _ = run("doctor", cifar, "--backend", "slurm", "--json", environment=nowhere)
    assert code == 1
    wrong = {
        check["what"]: check["finding"]
        for check in json.loads(out)["checks"]
        if check["level"] == "wrong"
    }
    assert set(wrong) == {"data cifar10", "tracking", "slurm"}
    assert "set RM_DATA_DIR" in wrong["data cifar10"]
    assert "`sync` mirrors later" in wrong["tracking"]
    assert "sbatch, squeue, scontrol, scancel, srun not found" in wrong["slurm"]
    code, _, err = run("doctor", spec, "--submit")
    assert code == 2
    assert "--backend local has none" in err


@pytest.mark.parametrize("script", ["launch/run.py", "analysis/report.py"])
def test_a_python_without_our_packages_is_named(script):
    """As where `python` is typed instead of .venv/bin/python."""
    done = subprocess.run(
        [sys.executable, "-S", str(ROOT / script)], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1), done.stderr
    assert done.stderr.startswith(f"error: {sys.executable} lacks the packages pydantic, ")
