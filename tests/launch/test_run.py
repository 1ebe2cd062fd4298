"""The command: real workers on real digits. Reuse, kill -9, two launchers, and what is left on
disk. Failure and Ctrl-C are tests/backends', of every backend.
"""

import os
import signal
import time

import pytest

from launch import cli
from launch.spec.load import load_spec
from tests.support.commands import (
    command,
    journal,
    mlflow_records,
    run,
    running_pids,
    trials,
    wait_for,
)
from tests.support.processes import is_gone
from tests.support.trials import PATIENCE, deterministic

pytestmark = pytest.mark.usefixtures("results")


@pytest.mark.cluster
def test_the_whole_way_and_back_again(write_spec, results, tmp_path, capsys):
    """Dry run, run from another folder, reuse, a second spec with the same trial, status, --force,
    deleted store.
    """
    path = write_spec()
    code, out, _ = run(path, "--dry-run", "--json")
    assert code == 0
    assert [(t["row"], t["seed"], t["state"]) for t in trials(out)] == [
        ("Baseline", 0, "waiting"),
        ("Baseline", 1, "waiting"),
        ("RM", 0, "waiting"),
        ("RM", 1, "waiting"),
    ]
    assert not results.exists(), "a dry run creates nothing"

    code, out, err = run("small.yaml", "--json", cwd=tmp_path, environment={"RM_TRACKING": "on"})
    assert code == 0, err
    assert "`python analysis/report.py small.yaml` shows what came out" in err
    assert {t["state"] for t in trials(out)} == {"finished"}
    for trial in load_spec(path).trials:
        names = {entry.name for entry in (results / "runs" / trial.id).iterdir()}
        assert names >= {
            "trial.json",
            "provenance.json",
            "journal.jsonl",
            "checkpoint.pt",
            "result.json",
            "log.txt",
        }
        assert not {name for name in names if name.endswith(".tmp") or name == "lease.json"}

    code, _, err = run(path)
    assert code == 0
    assert "all 4 trials were finished already" in err

    other = write_spec(
        name="other.yaml",
        **{
            "lr: 0.05": "lr: 0.05, momentum: 0.9",
            "RM: {": "Other label: {",
            '["RM < Baseline"]': "[]",
        },
    )
    code, out, err = run(path, other, "--json")
    assert "all 4 trials were finished already" in err
    assert {(t["spec"], t["state"]) for t in trials(out)} == {
        ("small", "finished"),
        ("other", "finished"),
    }

    before = {t.id: deterministic(results / "runs" / t.id) for t in load_spec(path).trials}
    code, _, err = run(path, "--force", "--where", "method=RM")
    assert code == 0, err
    assert "running 2 of 2 trials" in err
    assert len(list((results / "replaced").iterdir())) == 2
    assert {
        identity: deterministic(results / "runs" / identity) for identity in before
    } == before, "same trial, same numbers"

    assert cli.main(["sync"]) == 0
    records = mlflow_records(results)
    assert set(records) == set(before)
    (results / "mlflow.db").unlink()
    assert cli.main(["sync"]) == 0
    assert mlflow_records(results) == records, "every record is back"
    capsys.readouterr()
    assert cli.main(["sync"]) == 0
    assert "0 of 4 runs had something new" in capsys.readouterr().err


@pytest.mark.usefixtures("stored")
@pytest.mark.cluster
def test_mlflow_holds_what_the_journals_say(write_spec, results):
    path = write_spec(**{"[0, 1]": "[0]"})
    other = write_spec(
        name="other.yaml", **{"[0, 1]": "[0]", "RM: {": "Ours: {", '["RM < Baseline"]': "[]"}
    )
    assert run(path, other)[0] == 0
    records = mlflow_records(results)
    for cell in load_spec(path).cells:
        trial = cell.trials[0]
        tags, params, points, status, name, *_ = records[trial.id]
        assert status == "FINISHED"
        assert name == f"small · {cell.labels[0]} · seed 0"
        assert tags["spec.small"] == cell.labels[0]
        assert tags["spec.other"] == {"Baseline": "Baseline", "RM": "Ours"}[cell.labels[0]]
        assert params["method.name"] == trial.values["method"]["name"]
        assert params["optimizer.lr"] == "0.05"
        epochs = deterministic(results / "runs" / trial.id)
        assert [(s, v) for s, v, _ in points["test_top1_error"]] == [
            (e["epoch"], e["test_top1_error"]) for e in epochs
        ]
        assert points["last_top1_error"][0][1] == epochs[-1]["test_top1_error"]


@pytest.mark.usefixtures("tracked")
@pytest.mark.cluster
def test_an_unreachable_store_stops_nothing_and_sync_mirrors_later(write_spec, results):
    path = write_spec(**{"[0, 1]": "[0]"})
    untracked = {"RM_TRACKING": "off"}
    code, _, err = run(path, "--where", "method=Baseline", environment=untracked)
    assert (code, "nothing is lost" in err) == (0, False)
    assert "RM_TRACKING=off: reports see them after `sync`" in err
    assert not (results / "mlflow.db").exists()
    nowhere = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    code, _, err = run(path, environment=nowhere)
    assert code == 0, err
    assert "nothing is lost" in err
    assert run("sync")[0] == 0
    assert set(mlflow_records(results)) == {trial.id for trial in load_spec(path).trials}


def test_bad_specs_create_nothing(write_spec, results):
    path = write_spec(
        **{
            "title:": "titel:",
            "epochs: 2": "epochs: two",
            "lr: 0.05": "lr: -1",
            "baseline\n": "cutmx\n",
            "alpha": "alhpa",
        }
    )
    code, out, err = run(path)
    assert code == 2
    assert out == ""
    assert len(err.splitlines()) == 6
    assert all(line.startswith(f"{path}:") for line in err.splitlines())
    assert not results.exists()
    code, _, err = run(write_spec(), "--where", "backbone=resnet99")
    assert (code, "Traceback" in err) == (2, False)
    assert "no trial has that value of 'backbone'; there are resnet8" in err
    code, _, err = run(write_spec(), "--seeds", "0,0")
    assert (code, "must be different whole numbers" in err) == (2, True)
    assert (
        run(write_spec(), "--backend", "locl")[2]
        == "error: unknown backend 'locl'; did you mean 'local'?\n"
    )
    assert not results.exists()


LONG = {"epochs: 2": "epochs: 40", "[0, 1]": "[0]"}


@pytest.mark.cluster
def test_killed_workers_and_a_killed_launcher_lose_nothing(write_spec, results, reference):
    path = write_spec(**LONG)
    process = command(path, environment={"RM_CHECKPOINT_SECONDS": "0"})
    wait_for(lambda: len(running_pids(results)) == 2, process)
    wait_for(
        lambda: all(journal(results, t).count("epoch") >= 2 for t in running_pids(results)),
        process,
    )
    victim, pid = next(iter(running_pids(results).items()))
    os.kill(pid, signal.SIGKILL)
    assert (
        "worker process ended with signal SIGKILL"
        in process.stderr.readline() + process.stderr.readline()
    )
    wait_for(lambda: "resumed" in journal(results, victim), process)
    workers = list(running_pids(results).values())
    process.kill()
    process.wait()
    deadline = time.monotonic() + PATIENCE
    while not all(map(is_gone, workers)):  # they notice, checkpoint and end
        assert time.monotonic() < deadline
        time.sleep(0.05)
    code, out, err = run(path, "--json")
    assert code == 0, err
    ours = {t["id"]: deterministic(results / "runs" / t["id"]) for t in trials(out)}
    assert ours == reference(path).numbers()


@pytest.mark.usefixtures("stored")
@pytest.mark.cluster
def test_two_launchers_run_each_trial_once(write_spec, results):
    path = write_spec(**{"epochs: 2": "epochs: 6"})
    both = [command(path, "--json"), command(path, "--json")]
    outputs = [process.communicate(timeout=PATIENCE) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    for out, _ in outputs:
        assert {t["state"] for t in trials(out)} == {"finished"}
    for trial in load_spec(path).trials:
        events = journal(results, trial.id)
        assert events.count("started") == events.count("finished") == 1
        assert events.count("epoch") == 6
    assert len(mlflow_records(results)) == 4


@pytest.mark.cluster
def test_a_method_without_its_files_is_refused_and_the_others_run(write_spec, results, tmp_path):
    path = write_spec(
        **{"Baseline: baseline": "Baseline: baseline\n    Style: stylecutmix", "[0, 1]": "[0]"}
    )
    empty = {"RM_DATA_DIR": str(tmp_path / "empty")}
    code, out, _ = run(path, "--dry-run", environment=empty)
    assert code == 0
    assert (
        f"refused: method 'stylecutmix' needs {tmp_path}/empty/stylecutmix/vgg_normalised.pth, "
        "from https://" in out
    )
    assert "SHA-256" in out
    code, out, err = run(path, "--json", environment=empty)
    assert code == 3, "not everything that was asked for is finished"
    assert "refused: method 'stylecutmix' needs" in err
    assert {t["row"]: t["state"] for t in trials(out)} == {
        "Baseline": "finished",
        "Style": "refused",
        "RM": "finished",
    }
    assert len(list((results / "runs").iterdir())) == 2
