"""Servers that take connections and never answer."""

import socket

import pytest

from launch.tracking import follow
from launch.tracking.followers import load
from tests.support.commands import run
from tests.support.tracking.journals import FakeRun

pytestmark = pytest.mark.usefixtures("results")


@pytest.fixture
def hanging():
    with socket.create_server(("127.0.0.1", 0), backlog=100) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.cluster
def test_a_command_ends_two_time_limits_after_its_trials(write_spec, hanging):
    """And says meanwhile what it waits for; `sync` says what is wrong."""
    spec = write_spec(**{"[0, 1]": "[0]"})
    environment = {"MLFLOW_TRACKING_URI": hanging, "MLFLOW_HTTP_REQUEST_TIMEOUT": "6"}
    code, _, err = run(spec, environment=environment)
    assert code == 0, err
    assert f"waiting for the tracking store {hanging}" in err
    assert err.count("cannot be written") == 1
    assert "2 finished" in err
    code, _, err = run("sync", environment={**environment, "MLFLOW_HTTP_REQUEST_TIMEOUT": "1"})
    assert code == 1
    assert f"the tracking store {hanging} cannot be written (" in err


def test_so_is_a_follower_that_is_waited_for(hanging, results, monkeypatch, capsys):
    begun = FakeRun(results / "runs", 0)
    begun.train(1)
    for name, seconds in (("EVERY", 0.01), ("SILENT", 0.1), ("PATIENCE", 0.3)):
        monkeypatch.setattr(follow, f"{name}_SECONDS", seconds)
    with follow.Following([load(f"webhook={hanging}/hook")], lambda: [begun.folder]):
        pass
    first, second = capsys.readouterr().err.splitlines()
    rest = "`python launch/run.py sync --follow webhook` sends the rest"
    assert first == f"waiting for webhook; Ctrl-C: {rest}"
    assert second == f"webhook is behind; {rest}"
