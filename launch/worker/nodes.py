"""The other nodes of a job whose trial is trained on several: they start their processes and pass
on their answers.

The worker of the first node, which holds the trial's lease, opens a socket for each attempt and
writes where it is, and a token, into a file beside the array's tasks. The other nodes' tasks
connect, are told what to start, pass on what their processes answer, and end them when the
connection ends.

    results/slurm/<job name>/nodes-<job id>-<restart>.json      {"address", "port", "token"}, for
    the owner's eyes only
                             nodes-<job id>-<restart>.done      the first node needs the others no
                             more
"""

import contextlib
import hmac
import json
import os
import platform
import secrets
import selectors
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from launch.runs import rundir
from launch.runs.rundir import RunDir
from launch.worker import process_group

MEET_SECONDS = 300.0
"""How long the first node waits for the others."""
POLL_SECONDS = 0.5


def rendezvous_path(folder: Path, kind: str = "nodes") -> Path:
    """Where the nodes of this job, in this incarnation of it, find each other."""
    restart = os.environ.get("SLURM_RESTART_COUNT", 0)
    return folder / f"{kind}-{os.environ['SLURM_JOB_ID']}-{restart}.json"


def invite(path: Path, contents: dict[str, Any]) -> None:
    """Say where to come: whole or not at all, and for nobody else's eyes, since who has the token
    may run what they like.
    """
    aside = path.with_suffix(".tmp")
    with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(contents, file)
    aside.replace(path)


def dismiss(path: Path) -> None:
    """Tell the other nodes that they are not needed any more, and remove the invitations of this
    job: an incarnation that was killed has left its own, with its token.
    """
    path.with_suffix(".done").touch()
    of_job = path.stem.rpartition("-")[0]
    for invitation in path.parent.glob(f"{of_job}-*.json"):
        invitation.unlink(missing_ok=True)


class Rendezvous:
    """The first node's side: `others` nodes are waited for, and sent off."""

    def __init__(self, path: Path, others: int) -> None:
        self.path, self.others, self.token = path, others, secrets.token_hex(16)
        self.address = os.environ[process_group.ADDRESS]
        self.rendezvous = process_group.free_port()
        self.listener = socket.create_server(("", 0), backlog=others)
        self.listener.settimeout(POLL_SECONDS)
        self.connections: dict[int, socket.socket] = {}

    def __enter__(self) -> Self:
        told = {
            "address": self.address,
            "port": self.listener.getsockname()[1],
            "token": self.token,
        }
        invite(self.path, told)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.path.unlink(missing_ok=True)
        for connection in (self.listener, *self.connections.values()):
            connection.close()

    def wait(self, stop: Callable[[], bool]) -> bool:
        """Until all others are here; false where it was asked to stop. Raises Lost after
        MEET_SECONDS.
        """
        deadline = time.monotonic() + MEET_SECONDS
        while len(self.connections) < self.others:
            if stop():
                return False
            if time.monotonic() > deadline:
                raise process_group.WorkerLost(
                    f"{len(self.connections)} of {self.others} other nodes came within "
                    f"{MEET_SECONDS:.0f} s"
                )
            with contextlib.suppress(TimeoutError):
                self._admit(self.listener.accept()[0])
        return True

    def _admit(self, connection: socket.socket) -> None:
        connection.settimeout(10)
        try:
            said = json.loads(connection.makefile().readline())
            if hmac.compare_digest(str(said["token"]), self.token):
                connection.settimeout(None)
                self.connections[int(said["node"])] = connection
                return
        except (OSError, ValueError, KeyError, TypeError):
            pass  # not one of ours
        connection.close()

    def dispatch(self, run_dir: Path, here: int, count: int) -> list["Node"]:
        """Tell each node its ranks; returns what hears them."""
        sent = []
        for place, (number, connection) in enumerate(sorted(self.connections.items()), start=1):
            first = place * here
            order = {
                "run_dir": str(run_dir),
                "first": first,
                "here": here,
                "count": count,
                "port": self.rendezvous,
            }
            with contextlib.suppress(OSError):  # one that is gone again is heard to be
                connection.sendall((json.dumps(order) + "\n").encode())
            sent.append(Node(connection, number, set(range(first, first + here))))
        return sent


class Node:
    """Another node, as `launch.worker.process_group` hears it."""

    def __init__(self, connection: socket.socket, number: int, ranks: set[int]) -> None:
        self.connection, self.number, self.missing, self.lines = (
            connection,
            number,
            ranks,
            process_group.Lines(),
        )

    def fileno(self) -> int:
        return self.connection.fileno()

    def poll(self) -> process_group.Poll:
        answers, over = self.lines.read(self.fileno())
        self.missing -= {answer["rank"] for answer in answers}
        if over and self.missing:
            how = f"node {self.number} of the job is lost"
            answers.append({"rank": min(self.missing), "outcome": "lost", "error": how})
        return answers, over

    def ask_to_stop(self) -> None:
        """The processes of the first node are asked, and all stop together."""

    def end(self) -> None:
        self.connection.close()


def serve(path: Path) -> int:
    """What the task of another node does: obey each meeting until there will be no more."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
        signal.signal(number, lambda number, frame: None)  # the first node decides
    seen = None
    while not _is_there(path.with_suffix(".done")):
        try:
            told = json.loads(path.read_text(encoding="utf-8")) if _is_there(path) else None
            if told and told["token"] != seen:
                seen = told["token"]
                _join(told)
                continue
        except (OSError, ValueError) as error:
            print(f"{platform.node()}: {error}", flush=True)
        time.sleep(POLL_SECONDS)
    return 0


def _join(told: dict[str, Any]) -> None:
    """Go to one meeting, run what is asked for, and pass on the answers until the other side or
    all processes have ended.
    """
    with socket.create_connection((told["address"], told["port"]), timeout=30) as connection:
        connection.sendall(
            (json.dumps({"token": told["token"], "node": _number()}) + "\n").encode()
        )
        connection.settimeout(None)
        order = json.loads(connection.makefile().readline() or "null")
        if order is None:
            return  # called off
        run_dir, address = Path(order["run_dir"]), told["address"]
        log = os.open(
            RunDir(run_dir).file(rundir.LOG), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666
        )
        kept = os.dup(2)
        os.dup2(log, 2)
        try:
            with process_group.ranks(
                run_dir, order["first"], order["here"], order["count"], address, order["port"]
            ) as own:
                _pass_on(own, connection)
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            os.close(log)


def _pass_on(own: list[process_group.RankProcess], connection: socket.socket) -> None:
    with selectors.DefaultSelector() as selector:
        selector.register(connection, selectors.EVENT_READ, None)
        for rank in own:
            selector.register(rank.fileno(), selectors.EVENT_READ, rank)
        while any(rank.missing for rank in own):
            for key, _ in selector.select():
                if key.data is None:
                    return  # the first node has ended the attempt
                heard, over = key.data.poll()
                for answer in heard:
                    connection.sendall((json.dumps(answer) + "\n").encode())
                if over:
                    selector.unregister(key.fileobj)
        selector.select(process_group.LOST_SECONDS)  # until the first node has heard it all


def _number() -> int:
    return int(os.environ["SLURM_PROCID"])


def _is_there(path: Path) -> bool:
    """Lists the folder: NFS may answer from memory, for half a minute, that a file is not
    there.
    """
    with os.scandir(path.parent) as entries:
        return any(entry.name == path.name for entry in entries)
