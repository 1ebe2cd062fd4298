"""Measurements travel to another machine and back as trainings do; pictures do not."""

import os
import subprocess
import sys

import pytest

from analysis.records.committed import curves, rows
from launch.cli import main as launch
from launch.plan import make_plan
from launch.runs import archive
from launch.runs.rundir import RunDir
from launch.spec.load import load_spec
from rm import registry
from tests.support.specs import PROBE
from tests.support.trials import PATIENCE, deterministic

COSTS = {
    "NAME": "overhead",
    "LABEL": "Time",
    "OPTIONS": "of: time, steps: 4, classes: 10, size: 16",
}
PARAMETERS = "      - {row: Parameters, probe: {name: overhead, of: parameters, classes: 10}}\n"
PICTURES = {"NAME": "samples", "LABEL": "Pictures", "OPTIONS": "steps: 1, count: 2"}


def measured_in(folder) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "launch.backends.local", "."],
        cwd=folder,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.cluster
def test_there_and_back(write_spec, results, tmp_path, capsys):
    """Points and numbers are those of the run directory; plans and reports know them."""
    spec, folder = write_spec(PROBE + PARAMETERS, **COSTS), tmp_path / "there"
    assert launch(["export", str(spec), "--to", str(folder)]) == 0
    assert "must have: nothing\n" in capsys.readouterr().err
    measured_in(folder)
    assert launch(["import", str(folder / "back" / "records.tar.gz")]) == 0
    records = {r["id"]: r for r in archive.read(results / "reproduced" / "small.jsonl")}
    trials = load_spec(spec).trials
    assert set(records) == {trial.id for trial in trials}
    for trial in trials:
        here, there = results / "runs" / trial.id, folder / "runs" / trial.id
        assert deterministic(here) == deterministic(there)
        assert archive.make_record(archive.read_run(here), "here") == records[trial.id]
        assert RunDir(here).state() == "finished"
    assert {use.state for use in make_plan([load_spec(spec)], results / "runs").uses} == {
        "finished"
    }
    known = rows(records, results / "reproduced")
    points = curves([row["run_id"] for row in known.values()], "value", results / "reproduced")
    assert sorted(len(curve) for curve in points.values()) == [0, 4]
    assert all("measured_overhead" in row for row in known.values())


@pytest.mark.cluster
def test_what_keeps_pictures_is_measured_here(write_spec, results, tmp_path, capsys):
    spec = write_spec(PROBE, **PICTURES)
    assert launch(["export", str(spec), "--to", str(tmp_path / "there")]) == 0
    said = capsys.readouterr().err
    assert "left out, to be measured here: 1" in said
    assert "nothing to export" in said
    assert launch([str(spec)]) == 0
    assert launch(["import", str(results / "runs"), "--name", "x"]) == 2
    assert "probe 'samples' keeps pictures, which no record holds" in capsys.readouterr().err
    assert not (results / "reproduced" / "x.jsonl").exists()


@pytest.mark.parametrize("name", sorted(registry.entries("probe")))
def test_a_probe_says_whether_it_keeps_pictures(name):
    entry = registry.entry("probe", name)
    assert entry.keeps_pictures == ("log.save_artifact(" in entry.file.read_text())
