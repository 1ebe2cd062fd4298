"""status, logs, retry and progress beside real probes, running and interrupted."""

import json
import os
import re
import signal
import time

import pytest

from launch.runs.journal import number_of
from launch.runs.rundir import RunDir
from launch.spec.load import load_spec
from tests.support.commands import command, run, running_pids, trials, wait_for
from tests.support.specs import PROBE
from tests.support.trials import PATIENCE

pytestmark = pytest.mark.usefixtures("results")

PROBES = {
    "Points": ("overhead", "of: time, steps: 20000, classes: 10, size: 16"),
    "Silent": ("effective_classes", "iterations: 10000000, classes: 10, size: 8"),
}
"""One journals a point at each pair of steps, the other none before its end."""


def points(run_dir):
    return sum(number_of(event) is not None for event in run_dir.events()[0])


@pytest.fixture
def probes(write_spec, results):
    """Two specs, and the run directories of their probes by row."""
    paths, found = [], {}
    for label, (name, options) in PROBES.items():
        replaced = {"NAME": name, "LABEL": label, "OPTIONS": options}
        paths.append(write_spec(PROBE, f"{name}.yaml", **replaced))
        (trial,) = load_spec(paths[-1]).trials
        found[label] = RunDir(results / "runs" / trial.id)
    return paths, found


def launched(paths, found, results):
    launcher = command(*paths, "--workers", "2")
    wait_for(
        lambda: points(found["Points"]) >= 3 and len(running_pids(results)) == 2, launcher, 120
    )
    return launcher


def asked(*words):
    """The output of a command that must not fail."""
    code, out, err = run(*words)
    assert code == 0, err
    assert "Traceback" not in err
    return out + err


def assert_all_say(state, paths, found):
    """What each command shows of probes in this state."""
    by_row = {t["row"]: t for t in trials(asked("status", *paths, "--json"))}
    assert {t["state"] for t in by_row.values()} == {state}
    assert {t["epoch"] for t in by_row.values()} == {0}
    assert {t["seconds_left"] for t in by_row.values()} == {None}
    assert by_row["Points"]["points"] >= 3
    assert by_row["Silent"]["points"] == 0
    assert re.search(rf"Points .* {state} +\d+ points", asked("status", *paths))
    said = asked("logs", found["Points"].id)
    assert re.search(rf"{state}, \d+ points measured", said)
    assert re.search(r"point 1: value [\d.]+, reference [\d.]+", said)
    assert "epoch" not in asked("logs", found["Silent"].id)
    logged = json.loads(asked("logs", found["Points"].id, "--json"))
    assert logged["points"] >= 3


@pytest.mark.cluster
def test_beside_a_running_probe_and_after_it_was_cancelled(probes, results):
    paths, found = probes
    launcher = launched(paths, found, results)
    assert_all_say("running", paths, found)
    assert "nothing has failed" in asked("retry", *paths)
    asked("cancel", *paths)
    _, err = launcher.communicate(timeout=PATIENCE)
    assert launcher.returncode == 130, err
    assert_all_say("interrupted", paths, found)
    assert "nothing has failed" in asked("retry", *paths)
    asked("sync", *paths)


@pytest.mark.cluster
def test_after_probe_and_launcher_were_killed(probes, results):
    paths, found = probes
    launcher = launched(paths, found, results)
    for pid in (launcher.pid, *running_pids(results).values()):
        os.kill(pid, signal.SIGKILL)
    launcher.communicate()
    deadline = time.monotonic() + PATIENCE  # a killed process takes a moment to be gone
    while any(run_dir.state() == "running" for run_dir in found.values()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert_all_say("interrupted", paths, found)
    assert "nothing has failed" in asked("retry", *paths)
