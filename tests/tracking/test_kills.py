"""200 random kills: of the mirror, of MLflow's server, of both. Afterwards every point is there
once and every status true.
"""

import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from tests.conftest import ROOT
from tests.support.tracking.journals import (
    FakeRun,
    assert_store_is_true,
    environment,
    grow,
    sqlite_rows,
)

pytestmark = pytest.mark.slow

MIRROR_KILLS = 160
SERVED_MIRROR_KILLS = 30
SERVER_KILLS = 10
"""Half of them take the mirror along."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Mirrors:
    """The process that forks mirrors."""

    def __init__(self, env: dict[str, str]) -> None:
        command = [sys.executable, "-m", "tests.support.tracking.forked_mirror"]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=env, stdin=pipe, stdout=pipe, text=True
        )

    def begin(self, kill_after: float | None = None) -> None:
        print(
            "mirror", "" if kill_after is None else kill_after, file=self.process.stdin, flush=True
        )

    def end(self) -> str:
        return self.process.stdout.readline().strip()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait(timeout=120)


class Server:
    """`launch/run.py serve` on a free port, killed with everything it started."""

    def __init__(self, env: dict[str, str]) -> None:
        self.port, self.env, self.process = free_port(), env, None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [
            sys.executable,
            "launch/run.py",
            "serve",
            "--port",
            str(self.port),
            "--",
            "--workers",
            "1",
        ]
        null = subprocess.DEVNULL
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=self.env, stdout=null, stderr=null, start_new_session=True
        )
        deadline = time.monotonic() + 240
        while not self.answers():
            assert time.monotonic() < deadline
            assert self.process.poll() is None
            time.sleep(0.1)

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.kill()


def test_a_mirror_killed_at_any_moment_doubles_and_loses_nothing(tmp_path):
    draw = random.Random(7)
    runs = [FakeRun(tmp_path / "runs", 0)]
    outcomes = []
    with Mirrors(environment(tmp_path)) as mirrors:
        for _ in range(MIRROR_KILLS):
            grow(runs, tmp_path / "runs", draw, most=40)
            mirrors.begin(draw.expovariate(4.0))
            outcomes.append(mirrors.end())
        assert set(outcomes) <= {"killed", "done"}
        assert outcomes.count("killed") > MIRROR_KILLS / 3, "the kills hit"
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
