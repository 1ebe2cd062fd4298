"""`logs` of a spec's row, and `retry --dry-run`: nothing is trained for these."""

import json

import pytest

from launch import cli
from launch.plan import make_plan
from launch.runs.create import prepare
from launch.runs.rundir import RunDir
from launch.spec.load import load_spec


@pytest.fixture
def prepared(write_spec, results):
    """A spec whose second trial has failed; the others wait."""
    path = write_spec()
    spec = load_spec(path)
    prepare(make_plan([spec], results / "runs").uses, results / "runs")
    run_dir = results / "runs" / spec.trials[1].id
    event = {"event": "failed", "time": 1.0, "error": "Boom: it broke", "traceback": ""}
    (run_dir / "journal.jsonl").write_text(json.dumps(event) + "\n")
    return path, spec, run_dir


def test_a_row_and_a_seed_name_a_trial(prepared, capsys):
    path, _, run_dir = prepared
    words = ["logs", str(path), "--where", "method=Baseline", "--seeds", "1"]
    assert cli.main(words) == 0
    out, err = capsys.readouterr()
    assert "failed: Boom: it broke" in out
    assert err.startswith(f"{run_dir.name}: failed")
    assert cli.main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["id"] == run_dir.name


def test_several_and_none_are_a_sentence(prepared, capsys, write_spec):
    path, *_ = prepared
    assert cli.main(["logs", str(path), "--where", "method=Baseline"]) == 2
    said = capsys.readouterr().err
    assert "2 trials of " in said
    assert "Baseline · seed 0; Baseline · seed 1; --where and --seeds choose one" in said
    assert cli.main(["logs", str(path), "--where", "method=RM", "--seeds", "7"]) == 2
    assert "has not begun: it has no log yet" in capsys.readouterr().err


def test_a_dry_retry_tells_and_changes_nothing(prepared, capsys):
    path, spec, run_dir = prepared
    before = RunDir(run_dir).events()
    assert cli.main(["retry", str(path), "--dry-run", "--json"]) == 0
    (trial,) = json.loads(capsys.readouterr().out)["trials"]
    assert (trial["id"], trial["state"]) == (spec.trials[1].id, "failed")
    assert RunDir(run_dir).events() == before
