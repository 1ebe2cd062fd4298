"""Searches that are refused, and the file of what one has decided."""

import argparse
import json

import pytest

from launch import backends
from launch.errors import UsageError
from launch.search.run import check
from launch.search.state import SearchState
from launch.spec.load import load_spec
from tests.support.commands import run
from tests.support.searches import SEARCH, decisions
from tests.support.specs import SPEC


def test_a_search_that_cannot_be_run_says_why_and_creates_nothing(write_spec, results):
    spec = write_spec(SEARCH, "search.yaml")
    code, _, err = run(spec, "--where", "row=nothing")
    assert (code, "--where row=nothing: no trial has that value of 'row'; there are " in err) == (
        2,
        True,
    )
    code, out, _ = run(spec, "--dry-run", "--json")
    rows = [trial["row"] for trial in json.loads(out)["trials"]]
    assert rows[:2] == ["Baseline", "Baseline"]
    assert [row.partition(":")[0] for row in rows[2:]] == [
        f"sample {number}" for number in range(1, 7)
    ]
    assert not results.exists()


def test_a_backend_that_cannot_watch_is_refused(write_spec):
    slurm = backends.get("slurm").from_args(argparse.Namespace(site=None, slurm=[], wait=False))
    searching, plain = load_spec(write_spec(SEARCH, "search.yaml")), load_spec(write_spec(SPEC))
    check([searching], backends.get("local")())
    check([plain], slurm)
    with pytest.raises(
        UsageError,
        match="which --backend slurm cannot: a search watches its trials as they train; valid: "
        "local, ray",
    ):
        check([plain, searching], slurm)


def test_two_launchers_do_not_carry_out_one_search(write_spec, results):
    spec = write_spec(SEARCH, "search.yaml")
    with SearchState(load_spec(spec)).lock():
        code, _, err = run(spec)
    assert code == 2
    assert "another launcher carries this search out" in err


def test_a_torn_last_line_of_the_decisions_is_dropped(write_spec, results):
    spec = load_spec(write_spec(SEARCH, "search.yaml"))
    state = SearchState(spec)
    with state.lock():
        state.begin(1)
        state.stopped(1, 2, 50.0, 1.0)
        with state.file.open("a") as file:
            file.write('{"event": "fin')
        again = SearchState(spec)
        assert [one.state for one in again.tried] == ["stopped", *["undecided"] * 5]
        again.begin(2)
    assert [event["event"] for event in decisions(results)] == [
        "drawn",
        "stopped",
        "drawn",
    ]
