"""The table of `status` on a terminal of 80 columns."""

import os
import sys

import pytest

from launch.commands import status
from launch.plan import make_plan
from launch.runs.status import TrialStatus
from launch.spec.load import load_spec
from tests.support.trials import ROOT


class _Terminal:
    """Standard output that says it is one."""

    def __init__(self, stream):
        self.stream = stream

    def isatty(self):
        return True

    def __getattr__(self, name):
        return getattr(self.stream, name)


@pytest.fixture
def rows(results):
    spec = load_spec(ROOT / "experiments" / "table3.yaml", overrides=["train.epochs=5"])
    plan = make_plan([spec], results / "runs")
    return [
        status.Row(use, TrialStatus("running", "node-with-a-long-name-0123", epoch=3))
        for use in plan.uses
    ]


def lines(rows, monkeypatch, columns):
    monkeypatch.setattr(sys, "stdout", _Terminal(sys.stdout))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(
        status.shutil, "get_terminal_size", lambda: os.terminal_size((columns, 24))
    )
    return list(status.lines(rows))


@pytest.mark.parametrize("columns", [80, 120])
def test_ids_and_states_are_whole(rows, monkeypatch, columns):
    head, *table = lines(rows, monkeypatch, columns)[:-1]
    assert max(map(len, [head, *table])) <= columns
    for line, row in zip(table, rows, strict=True):
        assert f" {row.use.trial.id}  running" in line
        assert " 3/5" in line
    place = head.index("trial")
    assert {line[place : place + 12] for line in table} == {row.use.trial.id for row in rows}


def test_a_wide_terminal_and_a_pipe_shorten_nothing(rows, monkeypatch):
    wide = lines(rows, monkeypatch, 400)
    assert "table3 (train.epochs=5)  PyramidNet-164, α̃=270 · + RM (ours)" in "\n".join(wide)
    assert "node-with-a-long-name-0123" in wide[1]
    assert status.fitted([10, 10, 4, 12, 7, 5, 4, 30], 80) == [10, 10, 4, 12, 7, 5, 4, 30]
