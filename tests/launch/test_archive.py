"""Committed records: of today's numerics, of former ones, of former selections."""

import json
from pathlib import Path

import pytest

from launch.plan import make_plan
from launch.runs import archive
from launch.runs.rundir import RunDir
from launch.spec.load import load_spec
from launch.spec.trial import trial_id
from rm import registry
from tests.support.commands import run
from tests.support.trials import ROOT

COMMITTED = ROOT / "results" / "reproduced" / "cifar10_small.jsonl"


def former_record(values, numerics):
    """A committed record, as one of these values and numerics."""
    (record, *_) = archive.read(COMMITTED)
    name = trial_id(values, numerics)
    trial = {"id": name, "numerics": numerics, **values}
    return {**record, "id": name, "trial": trial}


def test_a_record_of_former_numerics_is_shown_and_never_counts(write_spec, results):
    path = write_spec()
    trial = load_spec(path).trials[0]
    record = former_record(trial.values, registry.numerics() + 1)
    archive.add(results / "reproduced" / "old.jsonl", [record])
    plan = make_plan([load_spec(path)], results / "runs")
    assert plan.former == {trial.id: registry.numerics() + 1}
    assert {use.state for use in plan.uses} == {"waiting"}
    _, out, _ = run("status", path)
    assert f"committed of numerics {registry.numerics() + 1}" in out
    _, out, _ = run("plan", path)
    assert f"records of numerics {registry.numerics() + 1} are committed of 1" in out
    (made,) = archive.restore(results / "reproduced", results / "runs")
    assert made.name == record["id"] != trial.id
    assert RunDir(made).state() == "finished"


def test_what_is_restored_makes_the_same_record_again(tmp_path):
    """Also of results that were selected as they once were."""
    made = archive.restore(COMMITTED.parent, tmp_path / "runs")
    records = {record["id"]: record for record in archive.read(COMMITTED)}
    for run_dir in made[:3]:
        again = archive.make_record(archive.read_run(run_dir), str(run_dir))
        assert again == records[run_dir.name]


def test_a_result_that_its_journal_contradicts_is_refused(tmp_path):
    run_dir = archive.restore(COMMITTED.parent, tmp_path / "runs")[0]
    result = json.loads(Path(run_dir, "result.json").read_text())
    result["metrics"]["best_top1_error"] -= 1.0
    Path(run_dir, "result.json").write_text(json.dumps(result))
    with pytest.raises(archive.RecordError, match=r"result\.json says best_top1_error"):
        archive.make_record(archive.read_run(run_dir), "here")
