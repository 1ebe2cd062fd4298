"""A tracking server that takes connections and never answers."""

import socket

import pytest

from tests.support.commands import run

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
