"""A real Ray cluster on this machine for a test: a head and further nodes, own ports and folder,
stopped at the end.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

from tests.support.trials import PATIENCE

RAY = [sys.executable, "-m", "ray.scripts.scripts"]
QUIET = {"PYTHONUNBUFFERED": "1", "RAY_USAGE_STATS_ENABLED": "0"}
# Nobody else may command our clusters, nor do we want to know what other clusters' token is: one
# for this process and its children.
os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": uuid.uuid4().hex}
STORE = str(80 * 2**20)
LEAN = [
    *("--include-dashboard", "false", "--include-log-monitor", "false", "--no-monitor"),
    *("--system-config", '{"enable_worker_prestart":false,"prestart_worker_first_driver":false}'),
]
"""Without what costs a process of Python each, and is nothing to us."""


class Node:
    """One `ray start --block`: a raylet and its company, in a session of its own."""

    def __init__(self, folder: Path, arguments: list[str], gpus: int = 0) -> None:
        # A node's processes are looked for by this folder, so that nobody else's can be meant.
        self.folder = folder
        self.log = (folder / "start.log").open("w+")
        self.process = subprocess.Popen(
            [
                *RAY,
                "start",
                "--block",
                "--disable-usage-stats",
                "--object-store-memory",
                STORE,
                *arguments,
            ],
            stdout=self.log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **QUIET, "CUDA_VISIBLE_DEVICES": ",".join(map(str, range(gpus)))},
            start_new_session=True,
        )

    def wait_until(self, text: str, seconds: float = PATIENCE) -> None:
        deadline = time.monotonic() + seconds
        while text not in (self.folder / "start.log").read_text():
            assert self.process.poll() is None, (self.folder / "start.log").read_text()
            assert time.monotonic() < deadline, (self.folder / "start.log").read_text()
            time.sleep(0.1)

    def raylet(self) -> int:
        """Its pid: the child of `ray start` that is called raylet."""
        return next(
            pid for pid, words in children(self.process.pid) if Path(words[0]).name == "raylet"
        )

    def stop(self) -> None:
        for pid, _ in [*children(self.process.pid), (self.process.pid, [])]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait()
        self.log.close()


class Cluster:
    """Use as a context: `with Cluster(cpus=2) as cluster`, then `cluster.address`."""

    def __init__(self, *, cpus: int, gpus: int = 0) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="rt-", dir="/tmp"))  # short: sockets live in it
        self.nodes: list[Node] = []
        self.cpus, self.gpus = cpus, gpus

    def __enter__(self) -> "Cluster":
        try:
            head = ["--head", "--port", "0", *LEAN]
            head += ["--temp-dir", str(self.folder / "ray")]
            node = self._node(
                [*head, "--num-cpus", str(self.cpus), "--num-gpus", str(self.gpus)], self.gpus
            )
            node.wait_until("To connect to this Ray cluster")
            self.address = re.search(
                r"--address='(\S+)'", (node.folder / "start.log").read_text()
            )[1]
        except BaseException:
            self.__exit__()
            raise
        return self

    def add(self, *, cpus: int) -> Node:
        """A further node, with a process tree of its own."""
        node = self._node(["--address", self.address, "--num-cpus", str(cpus)])
        node.wait_until("Ray runtime started.")
        return node

    def _node(self, arguments: list[str], gpus: int = 0) -> Node:
        folder = self.folder / f"node{len(self.nodes)}"
        folder.mkdir()
        self.nodes.append(Node(folder, arguments, gpus))
        return self.nodes[-1]

    def __exit__(self, *_: object) -> None:
        for node in reversed(self.nodes):
            node.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


def children(pid: int) -> list[tuple[int, list[str]]]:
    """(pid, command line) of all processes below one, deepest first."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        parents.setdefault(parent, []).append(int(entry.name))
    found = []
    for child in parents.get(pid, []):
        found += children(child)
        try:
            words = (Path("/proc") / str(child) / "cmdline").read_text().split("\0")
        except OSError:
            continue
        found.append((child, words))
    return found
