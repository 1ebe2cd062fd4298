"""`show`, and what is said of a command or a file that is not there."""

import json
import re

import pytest

from launch import cli
from launch.paths import EXPERIMENTS
from launch.plan import make_plan
from launch.runs.create import prepare
from launch.spec.grammar.yaml_source import parse
from launch.spec.load import load_spec

pytestmark = pytest.mark.usefixtures("results")


def said(capsys, *words, status=0):
    assert cli.main([str(word) for word in words]) == status
    out, err = capsys.readouterr()
    return out if status == 0 else err


def test_a_specs_rows_are_shown_whole(write_spec, capsys):
    path = write_spec()
    rows = said(capsys, "show", path).split("---\n")
    assert [row.splitlines()[0] for row in rows] == ["# small · Baseline", "# small · RM"]
    spec = load_spec(path)
    for row, cell in zip(rows, spec.cells, strict=True):
        values, wrong = parse(row)
        assert wrong is None
        assert values.pop("trials") == {str(t.seed): t.id for t in cell.trials}
        assert values | {"seed": 0} == cell.trials[0].values
    assert max(map(len, "".join(rows).splitlines())) <= 99


def test_json_has_every_trial_and_so_has_the_plan(write_spec, capsys):
    path = write_spec()
    trials = {trial.id: trial for trial in load_spec(path).trials}
    for found in json.loads(said(capsys, "show", path, "--json"))["trials"]:
        values = {k: v for k, v in found.items() if k not in ("id", "label")}
        assert values == trials[found["id"]].values
    for row in json.loads(said(capsys, "plan", path, "--json"))["trials"]:
        assert row["values"] == trials[row["id"]].values


def test_a_trial_by_its_run_directory_or_by_the_committed_specs(write_spec, results, capsys):
    spec = load_spec(write_spec())
    prepare(make_plan([spec], results / "runs").uses, results / "runs")
    here = spec.trials[2]
    assert f"id: {here.id}\nseed: 0\n" in said(capsys, "show", here.id[:8])
    planned = load_spec(EXPERIMENTS / "finetune_digits.yaml").trials[0]
    show_planned = said(capsys, "show", planned.id)
    assert show_planned.startswith("# finetune_digits · ")
    (results / "runs" / here.id / "trial.json").write_text("{")
    assert "trial.json cannot be read" in said(capsys, "show", here.id, status=2)


def test_in_what_two_trials_differ(write_spec, results, capsys):
    spec = load_spec(write_spec())
    prepare(make_plan([spec], results / "runs").uses, results / "runs")
    one, _, _, other = spec.trials
    out = said(capsys, "show", one.id[:8], other.id[:8])
    assert re.search(r"^method.name +baseline +recursive_mix$", out, re.MULTILINE)
    assert re.search(r"^method.omega +– +0.5$", out, re.MULTILINE)
    assert re.search(r"^seed +0 +1$", out, re.MULTILINE)
    assert "train" not in out
    assert said(capsys, "show", one.id, one.id) == "no difference\n"


def test_in_what_two_specs_differ(write_spec, capsys):
    one = write_spec()
    changes = {"omega: 0.5": "omega: 0.1", "Baseline: b": "Plain: b", '["RM < Baseline"]': "[]"}
    other = write_spec(name="other.yaml", **changes)
    out = said(capsys, "show", one, other)
    assert f"Baseline: only in {one}" in out
    assert f"Plain: only in {other}" in out
    assert re.search(r"^RM:\n.*\nmethod.omega +0.5 +0.1$", out, re.MULTILINE | re.DOTALL)
    assert "not one with the other" in said(capsys, "show", one, "0123", status=2)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["stauts", "x"], "error: 'stauts' is no command, and no file; did you mean 'status'?"),
        (["table3"], "is no command, and no file; did you mean .*experiments/table3.yaml?"),
        (["plan", "tabel3.yaml"], "no such file; did you mean .*experiments/table3.yaml?"),
        (["plan", "train.epochs=3"], "name a spec beside what is to be set in it"),
        (["show", "zzzzzz"], "no trial in .* begins with 'zzzzzz'"),
    ],
)
def test_what_was_probably_meant(capsys, words, expected):
    assert re.search(expected, said(capsys, *words, status=2))


def test_an_unknown_option_comes_with_the_usage_of_its_command(write_spec, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["status", str(write_spec()), "--wtach"])
    err = capsys.readouterr().err
    assert "usage: launch/run.py status" in err
    assert "does not know --wtach; did you mean '--watch'?" in err
