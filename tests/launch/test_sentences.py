"""What commands say on a terminal of 80 columns: help that fits, ids that are whole, and sentences
that count as people do.
"""

import re
import sys

import pytest
from rich.cells import cell_len

from launch import cli
from launch.spec.load import load_spec
from tests.support.trials import ROOT

WIDTH = 80
AWKWARD = re.compile(r"\b1 (?:trials|runs|epochs|seeds|samples)\b|\ball 1\b|\(s\)|\bNone\b|\{\}")
"""What no sentence says."""
ID = re.compile(r"\b[0-9a-f]{12}\b")


@pytest.fixture(autouse=True)
def _terminal(monkeypatch, results):
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.mark.parametrize("command", cli.commands())
def test_help_fits(command, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "--help"])
    assert ended.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if len(line) > WIDTH] == []


def said(capsys, *words):
    status = cli.main([str(word) for word in words])
    found = capsys.readouterr()
    return status, re.sub(r"\x1b\[[0-9;]*m", "", found.out + found.err)


@pytest.mark.parametrize(
    "words",
    [
        ("plan",),
        ("run", "--dry-run"),
        ("status",),
        ("cancel",),
        ("retry", "--dry-run"),
        ("retry",),
        ("show",),
    ],
    ids=" ".join,
)
def test_one_trial_is_no_trials(words, write_spec, capsys):
    spec = write_spec(**{"seeds: [0, 1]": "seeds: [0]"})
    select = [] if words == ("show",) else ["--where", "method=baseline"]
    status, text = said(capsys, words[0], spec, *words[1:], *select)
    assert status == 0
    assert AWKWARD.findall(text) == []
    assert "Traceback" not in text


def test_ids_and_states_are_whole_in_the_plan(capsys, monkeypatch):
    """Of a spec with long rows, changed by --set, so that its name is long as well."""
    path = ROOT / "experiments" / "table3.yaml"
    changed = ["train.epochs=5", "optimizer.lr=0.05"]
    ids = {trial.id for trial in load_spec(path, overrides=changed).trials}
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    status, text = said(capsys, "plan", path, *changed)
    assert status == 0
    rows = [line for line in text.splitlines() if ID.search(line)]
    assert {ID.search(row)[0] for row in rows} == ids
    assert [row for row in rows if "  waiting" not in row or cell_len(row) > WIDTH] == []


def test_a_spec_of_ones_own_is_meant_too(tmp_path, capsys, write_spec, monkeypatch):
    written = write_spec()
    monkeypatch.chdir(written.parent)
    status, text = said(capsys, "plan", f"{written.stem}.yml")
    assert status == 2
    assert f"did you mean {written.name}?" in text
