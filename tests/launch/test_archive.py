"""Committed records: of today's numerics, of former ones, of former selections."""

import json
from pathlib import Path

import pytest

from analysis.records.committed import read as read_for_reports
from launch.plan import make_plan
from launch.runs import archive, committed
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
    record = former_record(trial.values, registry.numerics(trial.values) + 1)
    archive.add(results / "reproduced" / "old.jsonl", [record])
    plan = make_plan([load_spec(path)], results / "runs")
    assert plan.former == {trial.id: registry.numerics(trial.values) + 1}
    assert {use.state for use in plan.uses} == {"waiting"}
    _, out, _ = run("status", path)
    assert f"committed of numerics {registry.numerics(trial.values) + 1}" in out
    _, out, _ = run("plan", path)
    assert f"records of numerics {registry.numerics(trial.values) + 1} are committed of 1" in out
    (made,) = archive.restore(results / "reproduced", results / "runs")
    assert made.name == record["id"] != trial.id
    assert RunDir(made).state() == "finished"


@pytest.mark.parametrize("file", sorted(COMMITTED.parent.glob("*.jsonl")), ids=lambda f: f.stem)
def test_what_is_restored_makes_the_same_record_again(file, tmp_path):
    """Also of results that were selected as they once were."""
    archive.restore(file.parent, tmp_path / "runs")
    for record in list(archive.read(file))[:3]:
        run_dir = tmp_path / "runs" / record["id"]
        assert archive.make_record(archive.read_run(run_dir), str(run_dir)) == record


def test_a_result_that_its_journal_contradicts_is_refused(tmp_path):
    archive.restore(COMMITTED.parent, tmp_path / "runs")
    run_dir = tmp_path / "runs" / next(iter(archive.read(COMMITTED)))["id"]
    result = json.loads(Path(run_dir, "result.json").read_text())
    result["metrics"]["best_top1_error"] -= 1.0
    Path(run_dir, "result.json").write_text(json.dumps(result))
    with pytest.raises(archive.RecordError, match=r"result\.json says best_top1_error"):
        archive.make_record(archive.read_run(run_dir), "here")


def states(path, results):
    plan = make_plan([load_spec(path)], results / "runs")
    return {use.trial.id: use.state for use in plan.uses}


def test_records_of_the_clone_count_wherever_the_results_are(results):
    """Until one is trained again here, for plans and reports alike; and nothing is restored over
    it.
    """
    path, runs = ROOT / "experiments" / "cifar10_small.yaml", results / "runs"
    ids = [record["id"] for record in archive.read(COMMITTED)]
    found = states(path, results)
    known = [name for name in ids if name in found]
    assert known, "of today's numerics"
    assert {found[name] for name in known} == {"finished"}
    assert not results.exists()
    one = known[0]
    assert [record["id"] for record in read_for_reports([one])] == [one]
    committed.train_again(runs, one)
    assert states(path, results)[one] == "waiting"
    assert list(read_for_reports([one])) == []
    made = committed.restore(runs, known)
    assert {run_dir.name for run_dir in made} == set(known) - {one}


@pytest.mark.cluster
def test_force_trains_what_is_committed_and_the_next_command_resumes(write_spec, results):
    path = write_spec(**{"seeds: [0, 1]": "seeds: [0]"})
    trial = load_spec(path).trials[0]
    file = results / "reproduced" / "small.jsonl"
    archive.add(file, [former_record(trial.values, registry.numerics(trial.values))])
    only = ("--where", "method=baseline", "--workers", 1)
    code, _, err = run(path, *only)
    assert code == 0
    assert "the trial was finished already (1 of them committed" in err
    run_dir = RunDir(results / "runs" / trial.id)
    assert run_dir.result["epochs"] != 2
    code, _, err = run(path, *only, "--force")
    assert code == 0, err
    assert run_dir.result["epochs"] == 2
    assert not run_dir.has("origin.json")
    assert states(path, results)[trial.id] == "finished"
    assert len(list((results / "replaced").iterdir())) == 1
    assert len(archive.read(file)) == 1, "the record stays what it is"
