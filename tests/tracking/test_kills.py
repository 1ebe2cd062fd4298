"""Random kills: of the mirror, of MLflow's server, of both. Afterwards every point is there
once and every status true.
"""

import os
import random
import time

import pytest

from tests.support.tracking.journals import (
    FakeRun,
    assert_store_is_true,
    environment,
    grow,
    sqlite_rows,
)
from tests.support.tracking.mirrors import Mirrors, Server

pytestmark = pytest.mark.cluster

TIMES = int(os.environ.get("RM_TEST_KILLS", "1"))
"""How many times the number of kills; 4 made 92 of them."""
MIRROR_KILLS = 15 * TIMES
SERVED_MIRROR_KILLS = 6 * TIMES
SERVER_KILLS = 2 * TIMES
"""Half of them take the mirror along."""


def test_a_mirror_killed_at_any_moment_doubles_and_loses_nothing(tmp_path):
    draw = random.Random(7)
    runs = [FakeRun(tmp_path / "runs", 0)]
    killed = 0
    with Mirrors(environment(tmp_path)) as mirrors:
        mirrors.begin()
        assert mirrors.end() == "done"
        within = 0.25  # seconds: about what a mirror takes, found out below
        while killed < MIRROR_KILLS:
            grow(runs, tmp_path / "runs", draw, most=40)
            mirrors.begin(draw.uniform(0, within))
            outcome = mirrors.end()
            assert outcome in ("killed", "done"), outcome
            killed += outcome == "killed"
            # Too late: earlier from now on; in time: later, up to the mirror's last moments.
            within = min(within * (1.05 if outcome == "killed" else 0.8), 2.0)
        mirrors.begin()
        assert mirrors.end() == "done"
    assert_store_is_true(sqlite_rows(tmp_path / "mlflow.db"), runs)


def test_a_killed_server_and_a_killed_mirror_double_and_lose_nothing(tmp_path):
    draw = random.Random(8)
    runs = [FakeRun(tmp_path / "runs", 0)]
    env = environment(tmp_path)
    with Server(env) as server, Mirrors({**env, "MLFLOW_TRACKING_URI": server.uri}) as mirrors:
        for number in range(SERVED_MIRROR_KILLS + SERVER_KILLS):
            grow(runs, tmp_path / "runs", draw, most=25)
            server_dies = number % 4 == 3
            mirrors.begin(None if number % 8 == 3 else draw.expovariate(2.0))
            if server_dies:
                time.sleep(draw.expovariate(1.0))
                server.kill()
            outcome = mirrors.end()
            assert server_dies or outcome in ("killed", "done"), outcome
            if server_dies:
                server.start()
        mirrors.begin()
        assert mirrors.end() == "done"
    assert_store_is_true(sqlite_rows(tmp_path / "mlflow.db"), runs)
