"""Commands and workers forked off a process that has imported what they need, instead of started
anew: an import of torch takes two seconds of a core, what most tests train a fraction of one.

`install()` replaces `subprocess.Popen` in this process: `python launch/run.py ...` and
`python -P -m launch.worker` then come from a template, one for each process of the tests, and so
do the workers that such a command starts. They are processes as any other, with their own
standard streams, environment, folder, session and exit status. What an interpreter or a library
reads when it starts they do not read: where a variable of that kind differs, for whatever else is
started, and for a user who may not write a command line under /proc, nothing changes.

RM_TEST_COLD=1 starts everything anew.

The template is `tests/support/template.py`.
"""

import atexit
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from launch.backends.threads import thread_environment
from launch.interpreter import child_environment
from tests.support.trials import ROOT

COMMAND = [sys.executable, str(ROOT / "launch" / "run.py")]
WORKER = [sys.executable, "-P", "-m", "launch.worker"]
READ_AT_START = ("PYTHON", "LD_PRELOAD", "LC_", "LANG", "OMP_")
"""How variables begin that tests set and that are of no use to a process that has started."""

_STARTED_ANEW = subprocess.Popen


def install() -> None:
    """Once for this process and what is forked off the template for it."""
    if "RM_TEST_COLD" not in os.environ:
        subprocess.Popen = Popen  # type: ignore[misc]


def be_of(address: str) -> None:
    """The same in the template and what is forked off it: they have one already."""
    global _address
    _address = address
    install()


class Popen(subprocess.Popen[Any]):
    """As its base class, forked off the template where it can be."""

    _template: socket.socket | None = None
    """On which the exit status comes in; None: a child of this process."""

    def _execute_child(self, args: Any, executable: Any, *rest: Any) -> None:
        preexec, _, pass_fds, cwd, env, _, _, shell, *streams = rest[:14]
        _, gid, gids, uid, umask, new_session, group = rest[14:21]
        environment = dict(os.environ if env is None else env)
        folder = os.fspath(cwd or Path.cwd())
        plain = not (executable or preexec or pass_fds or shell or gid or gids or uid)
        words = [] if isinstance(args, str | bytes | Path) else [os.fspath(word) for word in args]
        if not plain or umask >= 0 or group >= 0 or not _can_be_forked(words, folder, environment):
            super()._execute_child(args, executable, *rest)  # type: ignore[misc]
            return
        stdin, _, _, stdout, _, stderr = streams
        request = {
            "words": words,
            "environment": environment,
            "folder": folder,
            "new_session": new_session,
        }
        given = [
            own if own != -1 else number for number, own in enumerate((stdin, stdout, stderr))
        ]
        self._template, self.pid = _ask(request, given)
        self._child_created = True
        self._close_pipe_fds(*streams)  # type: ignore[attr-defined]

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        if self._template is None:
            return super()._try_wait(wait_flags)  # type: ignore[misc]
        self._template.settimeout(0 if wait_flags & os.WNOHANG else None)
        try:
            status = self._template.recv(4)
        except BlockingIOError:
            return 0, 0
        self._template.close()
        return self.pid, struct.unpack("i", status)[0] if status else signal.SIGKILL

    def _internal_poll(self, _deadstate: int | None = None, *rest: Any) -> int | None:
        if self._template is None:
            return super()._internal_poll(_deadstate, *rest)  # type: ignore[misc]
        lock = self._waitpid_lock  # type: ignore[attr-defined]
        if self.returncode is None and lock.acquire(blocking=False):
            try:
                pid, status = self._try_wait(os.WNOHANG)
                if pid == self.pid:
                    self._handle_exitstatus(status)  # type: ignore[attr-defined]
            finally:
                lock.release()
        return self.returncode


def _can_be_forked(words: list[str], folder: str, environment: Mapping[str, str]) -> bool:
    command = [*words[:1], *(str(Path(folder, word)) for word in words[1:2])]
    known = words[: len(WORKER)] == WORKER or command == COMMAND
    return known and _read_at_start(environment) == _read_at_start(_OWN)


def _read_at_start(environment: Mapping[str, str]) -> dict[str, str]:
    """What a running process could not take over; not what the launcher gives to every worker:
    the number of threads is set again, and this checkout comes first in any case.
    """
    found = {name: value for name, value in environment.items() if name.startswith(READ_AT_START)}
    path = found.pop("PYTHONPATH", "").split(os.pathsep)
    found["PYTHONPATH"] = os.pathsep.join(entry for entry in path if entry not in ("", str(ROOT)))
    found.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # The last one Ray leaves in a process that imports it.
    for name in ("OMP_NUM_THREADS", "PYTHONSAFEPATH", "PYTHONUNBUFFERED", "PYTHONBREAKPOINT"):
        found.pop(name, None)
    return found


_OWN = dict(os.environ)
_QUIET = {
    "CUDA_VISIBLE_DEVICES": "",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
}
_lock = threading.Lock()
_address: str | None = None


def _ask(request: Mapping[str, Any], descriptors: list[int]) -> tuple[socket.socket, int]:
    """The connection on which the new process's exit status will come in, and its number."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(address())
    data = json.dumps(request).encode()
    socket.send_fds(connection, [struct.pack("i", len(data))], descriptors)
    connection.sendall(data)
    return connection, struct.unpack("i", connection.recv(4))[0]


def address() -> str:
    """The template's socket; the first one who asks starts it."""
    global _address
    with _lock:
        if _address is None:
            _address = _start_template()
        return _address


def in_memory(name: str) -> str:
    """The address of a socket that is no file: nothing to remove, however long $TMPDIR is."""
    return f"\0{name}"


def _start_template() -> str:
    name = f"rm-warm-{uuid.uuid4().hex}"
    process = _STARTED_ANEW(
        [sys.executable, "-P", "-m", "tests.support.template", name],
        env={**child_environment(_OWN), **thread_environment(1), **_QUIET},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    atexit.register(_end_template, process)
    assert process.stdout
    assert process.stdout.readline() == b"ready\n", "the template failed"
    return in_memory(name)


def _end_template(process: "subprocess.Popen[bytes]") -> None:
    assert process.stdin
    process.stdin.close()
    process.wait()
