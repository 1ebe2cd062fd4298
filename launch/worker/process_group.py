"""One trial trained by several processes: starts them, hears their answers, asks them to stop, and
leaves none behind.

Each is `python -m launch.worker RUN_DIR` with RANK, WORLD_SIZE and so on in its environment, as
torch.distributed.run would set them. Its agent is not used: SLURM's warning (USR2, to every
process of a job) would end it, and it answers with a status of its own where ours says finished,
interrupted or failed. The processes decide together, before the same step, to stop, so that asking
some is asking all; the first one alone writes into the run directory. One that ends without an
answer ends the others, and the trial is given to new ones, as with a single worker that dies.
"""

import json
import os
import selectors
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from launch.interpreter import child_environment, module_command

NODES = "RM_NODES"
"""The environment variable with the number of nodes that a job has for its trial."""
RENDEZVOUS = "RM_RENDEZVOUS"
"""The environment variable with the path at which they find each other."""
ADDRESS = "RM_ADDRESS"
"""The environment variable with how the other nodes reach this one."""
LOST_SECONDS = 15.0
"""After a process failed or was lost, or all have answered: how long the others may take to end by
themselves.
"""
POLL_SECONDS = 0.2


class WorkerLost(Exception):
    """A process ended without an answer: nothing is known of the trial but what is in its run
    directory.
    """


Poll = tuple[list[dict[str, Any]], bool]


class Participant(Protocol):
    """One process of this machine, or all of another node (launch/worker/nodes.py)."""

    missing: set[int]
    """The ranks that have not answered yet."""

    def fileno(self) -> int: ...

    def poll(self) -> Poll:
        """The answers that have come in, those of its ranks that are lost too, and whether they
        were the last.
        """

    def ask_to_stop(self) -> None: ...

    def end(self) -> None:
        """At once, if it has not ended yet."""


class Lines:
    """Whole lines of JSON out of a descriptor."""

    def __init__(self) -> None:
        self.buffer = b""

    def read(self, descriptor: int) -> Poll:
        """Those that have come in, and whether it has ended."""
        try:
            data = os.read(descriptor, 65536)
        except ConnectionError:
            data = b""
        *lines, self.buffer = (self.buffer + data).split(b"\n")
        return [json.loads(line) for line in lines], not data


class RankProcess:
    """A process of this machine."""

    def __init__(
        self, run_dir: Path, rank: int, count: int, local: int, address: str, port: int
    ) -> None:
        self.rank, self.missing, self.lines = rank, {rank}, Lines()
        place = {
            "RANK": rank,
            "LOCAL_RANK": local,
            "WORLD_SIZE": count,
            "MASTER_ADDR": address,
            "MASTER_PORT": port,
        }
        self.process = subprocess.Popen(
            module_command("launch.worker", str(run_dir)),
            # Its end is ours: no process may write on once the lease is another's.
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=child_environment({name: str(value) for name, value in place.items()}),
        )

    def fileno(self) -> int:
        return self.process.stdout.fileno() if self.process.stdout else -1

    def poll(self) -> Poll:
        answers, over = self.lines.read(self.fileno())
        self.missing -= {answer["rank"] for answer in answers}
        if over and self.missing:
            code = self.process.wait()
            how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
            answers.append(
                {
                    "rank": self.rank,
                    "outcome": "lost",
                    "error": f"process {self.rank} ended with {how}",
                }
            )
            self.missing.clear()
        return answers, over

    def ask_to_stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                pipe.close()


@contextmanager
def ranks(
    run_dir: Path, first: int, here: int, count: int, address: str, port: int
) -> Iterator[list[RankProcess]]:
    """`here` processes from rank `first` on, of `count` in all; ended when the block is left."""
    started: list[RankProcess] = []
    try:
        for local in range(here):
            started.append(RankProcess(run_dir, first + local, count, local, address, port))
        yield started
    finally:
        for rank in started:
            rank.end()


def wait_all(parts: Sequence[Participant], stop: Callable[[], bool]) -> list[dict[str, Any]]:
    """Hear the parts until all have answered, or until the others of one that failed had
    LOST_SECONDS; in the order heard.
    """
    answers: list[dict[str, Any]] = []
    asked, deadline = False, float("inf")
    with selectors.DefaultSelector() as selector:
        for part in parts:
            selector.register(part.fileno(), selectors.EVENT_READ, part)
        while (
            selector.get_map()
            and any(part.missing for part in parts)
            and time.monotonic() < deadline
        ):
            for key, _ in selector.select(POLL_SECONDS):
                heard, over = key.data.poll()
                answers += heard
                if over:
                    selector.unregister(key.fileobj)
            if not asked and stop():
                asked = True
                for part in parts:
                    part.ask_to_stop()
            if deadline == float("inf") and any(
                answer["outcome"] in ("lost", "failed") for answer in answers
            ):
                deadline = time.monotonic() + LOST_SECONDS
    return answers


def combine(answers: Sequence[dict[str, Any]], stopping: bool) -> dict[str, Any]:
    """The one answer that follows from those of the processes; `rank` says whose it is."""
    failed = next(
        (
            answer
            for answer in answers
            if answer["outcome"] == "failed" and not answer.get("lost_peer")
        ),
        None,
    )
    if failed:
        return failed
    lost = next((answer for answer in answers if answer["outcome"] in ("lost", "failed")), None)
    first = next((answer for answer in answers if answer["rank"] == 0), None)
    if lost is None and first is not None:
        return first
    how = str(lost["error"]) if lost else "the first process did not answer"
    if stopping:
        return {"outcome": "interrupted", "error": how}
    raise WorkerLost(how)


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
