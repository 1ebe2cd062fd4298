"""Searches carried out: real Ray, real trainings. Stopping, going on after Ctrl-C and kill -9,
failures, optuna, the report.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile

import pytest

from launch.search.state import SearchState
from launch.spec.load import load_spec
from tests.support.searches import (
    SEARCH,
    decisions,
    events,
    wait_for,
    wait_until_gone,
)
from tests.support.trials import PATIENCE, ROOT, deterministic

QUIET = {"CUDA_VISIBLE_DEVICES": "", "RM_TRACKING": "on"}
ONE = ("--workers", "1")
"""One sample at a time: the scheduler sees them in one order, so that what it decides can be told
beforehand.
"""


@pytest.fixture(scope="module", autouse=True)
def ray_folder():
    """Ray's own files, in a folder whose name is short enough for its sockets."""
    folder = tempfile.mkdtemp(prefix="rm-ray-", dir="/tmp")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def command(ray_folder, tmp_path):
    """Start `python launch/run.py ...`; results go to `results`, Ray's files to the module's
    folder.
    """

    def start(*words, results=tmp_path / "results", **environment):
        environment = {
            "CUDA_VISIBLE_DEVICES": "",
            "TMPDIR": ray_folder,
            "RM_RESULTS_DIR": str(results),
            **environment,
        }
        script = [sys.executable, str(ROOT / "launch" / "run.py"), *map(str, words)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(script, env={**os.environ, **environment}, **pipes)

    return start


@pytest.fixture
def run(command):
    def run_to_the_end(*words, **options):
        process = command(*words, **options)
        out, err = process.communicate(timeout=PATIENCE)
        return process.returncode, out, err

    return run_to_the_end


@pytest.fixture(scope="module")
def undisturbed(ray_folder, tmp_path_factory):
    """The search above, carried out once without disturbance: its results folder and what it
    said.
    """
    folder = tmp_path_factory.mktemp("undisturbed")
    spec = folder / "search.yaml"
    spec.write_text(
        "\n".join(line[4:] for line in SEARCH.strip("\n").splitlines()) + "\n", encoding="utf-8"
    )
    words = [sys.executable, str(ROOT / "launch" / "run.py"), str(spec), *ONE]
    results = folder / "results"
    environment = {**QUIET, "TMPDIR": ray_folder, "RM_RESULTS_DIR": str(results)}
    options = {
        "capture_output": True,
        "text": True,
        "timeout": PATIENCE,
        "check": False,
    }
    done = subprocess.run(words, env={**os.environ, **environment}, **options)
    assert done.returncode == 0, done.stderr
    return spec, results, done.stderr


def test_a_search_stops_bad_samples_and_trains_the_winner_on_everything(undisturbed, monkeypatch):
    spec_path, results, said = undisturbed
    monkeypatch.setenv("RM_RESULTS_DIR", str(results))
    spec = load_spec(spec_path)
    state = SearchState(spec)
    tried = {one.sample.number: one for one in state.tried}
    stopped = {number: one for number, one in tried.items() if one.state == "stopped"}
    finished = {number: one for number, one in tried.items() if one.state == "finished"}
    assert stopped, "half of the samples go no further than epoch 2"
    assert len(stopped) + len(finished) == 6
    assert {one.epoch for one in stopped.values()} <= {2, 4}
    for number, one in stopped.items():
        journal = events(results, one.sample.trial.id)
        assert journal.count("epoch") == one.epoch, "not a step of the next epoch was finished"
        assert journal[-2:] == ["checkpoint", "interrupted"]
        uses = (
            (results / "runs" / one.sample.trial.id / "uses.jsonl")
            .read_text(encoding="utf-8")
            .splitlines()
        )
        assert (
            json.loads(uses[-1])["row"]
            == f"{one.sample.label}; stopped at epoch {one.epoch} by asha"
        )
        assert f"sample {number}: " in said
    best = min(finished.values(), key=lambda one: (one.value, one.loss))
    assert state.winner == best
    assert (
        best.value == deterministic(results / "runs" / best.sample.trial.id)[-1]["test_top1_error"]
    )
    for trial in spec.search.trials(best.sample.point, [0, 1]):
        assert trial.values["dataset"]["held_out"] == 0
        assert (
            json.loads((results / "runs" / trial.id / "result.json").read_text())["test_images"]
            == 90
        )
    tested = [
        folder for folder in (results / "runs").iterdir() if (folder / "result.json").exists()
    ]
    assert len(tested) == len(finished) + 2 + 2, (
        "the winner's seeds and the baseline's, and no other trial saw the test set"
    )


def test_the_same_command_again_runs_nothing_and_more_samples_are_only_the_new_ones(
    undisturbed, run, tmp_path
):
    spec, before, _ = undisturbed
    results = tmp_path / "results"
    shutil.copytree(before, results)
    code, _, err = run(spec, *ONE)
    assert code == 0, err
    assert "searching" not in err, "no Ray is started for nothing"
    assert "all 4 trials were finished already" in err
    code, out, _ = run("status", spec, "--json")
    states = [trial["state"] for trial in json.loads(out)["trials"]]
    assert states.count("stopped") == sum(
        event["event"] == "stopped" for event in decisions(results)
    )
    assert set(states) == {"stopped", "finished"}

    longer = tmp_path / "search.yaml"
    longer.write_text(spec.read_text().replace("samples: 6", "samples: 7"))
    code, _, err = run(longer, *ONE)
    assert code == 0, err
    assert "searching: 1 of 7 samples" in err
    first, later = decisions(before), decisions(results)
    assert later[: len(first)] == first
    assert {event["sample"] for event in later[len(first) : -1]} == {7}


def test_ctrl_c_and_kill_change_nothing_in_what_is_decided(
    undisturbed, command, run, ray_folder, tmp_path
):
    """Stopped twice on its way, a search decides what the undisturbed one did, and runs no decided
    sample again.
    """
    spec, reference, _ = undisturbed
    results = tmp_path / "results"

    def running():
        """The sample in training once it has journalled an epoch, after at least one decision."""
        known = list((results / "searches").glob("*/decisions.jsonl"))
        drawn = (
            [event for event in decisions(results) if event["event"] == "drawn"] if known else []
        )
        if len(drawn) > 1 and "epoch" in events(results, drawn[-1]["trial"]):
            return drawn[-1]["trial"]
        return None

    process = command(spec, *ONE)
    wait_for(running, process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, err
    assert "the same command resumes from here" in err
    interrupted = [
        folder.name
        for folder in (results / "runs").iterdir()
        if events(results, folder.name)[-1:] == ["interrupted"]
    ]
    assert interrupted
    wait_until_gone(str(results))
    decided = len(decisions(results))

    process = command(spec, *ONE, RM_CHECKPOINT_SECONDS="0.1")
    wait_for(lambda: len(decisions(results)) > decided + 1 and running(), process)
    process.kill()
    process.communicate()
    wait_until_gone(str(results))

    code, _, err = run(spec, *ONE)
    assert code == 0, err
    assert decisions(results) == decisions(reference)
    for event in decisions(results):
        if event["event"] in ("finished", "stopped"):
            trial = next(e["trial"] for e in decisions(results) if e["sample"] == event["sample"])
            assert deterministic(results / "runs" / trial) == deterministic(
                reference / "runs" / trial
            )
            assert events(results, trial).count("started") == 1
    wait_until_gone(str(results))


def test_optuna_learns_and_a_failing_sample_cannot_win(write_spec, run, tmp_path):
    pytest.importorskip("optuna")
    space = "optimizer.lr: {loguniform: [0.0001, 0.5]}"
    changes = {
        space: "optimizer.lr: {choice: [0.05, 1.0e+30]}\n    train.batch_size: {int: [6, 9]}",
        "{name: asha, grace_epochs: 2, "
        "reduction_factor: 2}": "{name: median, grace_epochs: 1, least_samples: 1}",
        "samples: 6": "samples: 7\n  algorithm: optuna",
        "epochs: 8": "epochs: 3",
    }
    spec = write_spec(SEARCH, "learning.yaml", **changes)
    code, out, _ = run(spec, "--dry-run")
    assert code == 0
    assert "learning: 7 samples that optuna draws as it learns" in out
    code, _, err = run(spec, *ONE)
    assert code == 0, err
    drawn = [event for event in decisions(tmp_path / "results") if event["event"] == "drawn"]
    ends = {
        e["sample"]: e
        for e in decisions(tmp_path / "results")
        if e["event"] in ("finished", "stopped", "failed")
    }
    assert [event["sample"] for event in drawn] == [1, 2, 3, 4, 5, 6, 7]
    for event in drawn:
        wild = event["point"]["optimizer.lr"] == 1e30
        assert (ends[event["sample"]]["event"] == "failed") == wild
        assert 6 <= event["point"]["train.batch_size"] <= 9
    assert {event["point"]["optimizer.lr"] for event in drawn} == {0.05, 1e30}, (
        "both were tried: one of them cannot be trained"
    )
    assert "the loss is not finite" in err
    best = decisions(tmp_path / "results")[-1]
    assert (best["event"], best["point"]["optimizer.lr"]) == ("winner", 0.05)
    journals = {
        path: path.read_bytes() for path in (tmp_path / "results" / "runs").glob("*/journal.jsonl")
    }
    code, _, err = run("retry", spec)
    assert code == 0, err
    failed = sum(end["event"] == "failed" for end in ends.values())
    assert f"{failed} are samples of a search, which tries them again itself" in err
    assert {path: path.read_bytes() for path in journals} == journals, (
        "a sample is its search's to run"
    )


def test_the_report_shows_the_winner_and_the_figure(undisturbed, tmp_path):
    spec, results, _ = undisturbed
    words = [
        sys.executable,
        str(ROOT / "analysis" / "report.py"),
        str(spec),
        "--output",
        str(tmp_path / "report"),
    ]
    environment = {**os.environ, "RM_RESULTS_DIR": str(results)}
    environment.pop("MLFLOW_TRACKING_URI", None)
    done = subprocess.run(
        words, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr
    table = (tmp_path / "report" / "search.md").read_text(encoding="utf-8")
    best = decisions(results)[-1]
    errors = []
    for trial in load_spec(spec).search.trials(best["point"], [0, 1]):
        errors.append(
            json.loads((results / "runs" / trial.id / "result.json").read_text())["metrics"][
                "last_top1_error"
            ]
        )
    line = next(line for line in table.splitlines() if line.startswith("| winner"))
    assert f"{sum(errors) / 2:.2f}" in line
    drawn = (
        (tmp_path / "report" / "search" / "search.csv").read_text(encoding="utf-8").splitlines()
    )
    assert drawn[0] == "sample,x,y,state,winner,epoch,value"
    assert {line.split(",")[0] for line in drawn[1:]} == {"1", "2", "3", "4", "5", "6"}
    winning = {line.split(",")[0] for line in drawn if ",True," in line}
    assert winning == {str(best["sample"])}
