"""Mirrors in forked processes, and a real MLflow server."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

from tests.support.trials import PATIENCE, ROOT


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
        self.process.wait(timeout=PATIENCE)


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
        deadline = time.monotonic() + PATIENCE
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
