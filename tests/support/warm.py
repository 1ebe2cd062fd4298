"""Commands and workers forked off a process that has imported what they need, instead of started
anew: an import of torch takes two seconds of a core, what most tests train a fraction of one.

`install()` replaces `subprocess.Popen` in this process: `python launch/run.py ...` and
`python -P -m launch.worker` then come from a template, one for each process of the tests, and so
do the workers that such a command starts. They are processes as any other, with their own
standard streams, environment, folder, session and exit status. What an interpreter or a library
reads when it starts they do not read: where a variable of that kind differs, for whatever else is
started, and for a user who may not write a command line under /proc, nothing changes.

RM_TEST_COLD=1 starts everything anew.

    python -P -m tests.support.warm SOCKET     is the template; it ends with its standard input
"""

import atexit
import contextlib
import ctypes
import gc
import io
import json
import os
import runpy
import selectors
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from launch.backends.threads import thread_environment
from launch.interpreter import child_environment
from tests.support.trials import ROOT

COMMAND = [sys.executable, str(ROOT / "launch" / "run.py")]
WORKER = [sys.executable, "-P", "-m", "launch.worker"]
READ_AT_START = (
    "PYTHON",
    "LD_",
    "LC_",
    "LANG",
    "GLIBC",
    "MALLOC",
    "OMP_",
    "GOMP_",
    "MKL_",
    "KMP_",
)
"""How variables begin that are of no use to a process that has started."""
PATIENCE = 120.0

_STARTED_ANEW = subprocess.Popen
_PATH = "RM_TEST_TEMPLATE"
"""The environment variable with the template's socket and READ_AT_START's variables of it."""


def install() -> None:
    """Once for this process and what is forked off the template for it."""
    if "RM_TEST_COLD" not in os.environ:
        subprocess.Popen = Popen  # type: ignore[misc]


class Popen(subprocess.Popen[Any]):
    """As its base class, forked off the template where it can be."""

    _template: socket.socket | None = None
    """On which the exit status comes in; None: a child of this process."""

    def _execute_child(self, args: Any, executable: Any, *rest: Any) -> None:
        preexec, _, pass_fds, cwd, env, _, _, shell, *streams = rest[:14]
        _, gid, gids, uid, umask, new_session, group = rest[14:21]
        environment = dict(os.environ if env is None else env)
        plain = not (executable or preexec or pass_fds or shell or gid or gids or uid)
        words = [] if isinstance(args, str | bytes | Path) else [os.fspath(word) for word in args]
        if not plain or umask >= 0 or group >= 0 or not _can_be_forked(words, environment):
            super()._execute_child(args, executable, *rest)  # type: ignore[misc]
            return
        stdin, _, _, stdout, _, stderr = streams
        request = {
            "words": words,
            "environment": environment,
            "folder": os.fspath(cwd or Path.cwd()),
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


def _can_be_forked(words: list[str], environment: Mapping[str, str]) -> bool:
    known = words[: len(WORKER)] == WORKER or words[:2] == COMMAND
    return known and _read_at_start(environment) == _read_at_start(_OWN)


def _read_at_start(environment: Mapping[str, str]) -> dict[str, str]:
    """What a running process could not take over; not what the launcher gives to every worker:
    the number of threads is set again, and this checkout comes first in any case.
    """
    found = {name: value for name, value in environment.items() if name.startswith(READ_AT_START)}
    path = found.pop("PYTHONPATH", "").split(os.pathsep)
    found["PYTHONPATH"] = os.pathsep.join(entry for entry in path if entry not in ("", str(ROOT)))
    found.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for name in ("OMP_NUM_THREADS", "PYTHONSAFEPATH", "PYTHONUNBUFFERED"):
        found.pop(name, None)
    return found


_OWN = dict(os.environ)
_lock = threading.Lock()
_address: str | None = None


def _ask(request: Mapping[str, Any], descriptors: list[int]) -> tuple[socket.socket, int]:
    """The connection on which the new process's exit status will come in, and its number."""
    global _address
    with _lock:
        if _address is None:
            _address = _start_template()
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(_address)
    data = json.dumps(request).encode()
    socket.send_fds(connection, [struct.pack("i", len(data))], descriptors)
    connection.sendall(data)
    return connection, struct.unpack("i", connection.recv(4))[0]


def _start_template() -> str:
    address = str(Path(tempfile.mkdtemp(prefix="rm-warm-")) / "socket")
    process = _STARTED_ANEW(
        [sys.executable, "-P", "-m", "tests.support.warm", address],
        env={**child_environment(_OWN), **thread_environment(1), "CUDA_VISIBLE_DEVICES": ""},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    atexit.register(_end_template, process, address)
    assert process.stdout
    assert process.stdout.readline() == b"ready\n", "the template of tests/support/warm.py failed"
    return address


def _end_template(process: "subprocess.Popen[bytes]", address: str) -> None:
    assert process.stdin
    process.stdin.close()
    process.wait()
    Path(address).unlink()
    Path(address).parent.rmdir()


def serve(address: str) -> None:
    """The template: fork what is asked for, and say how it ended, until standard input does."""
    with socket.socket(socket.AF_UNIX) as listener, selectors.DefaultSelector() as selector:
        listener.bind(address)
        listener.listen(64)
        selector.register(listener, selectors.EVENT_READ)
        selector.register(0, selectors.EVENT_READ)
        os.write(1, b"ready\n")
        while True:
            for key, _ in selector.select():
                if key.fileobj == 0:
                    return
                if key.fileobj is listener:
                    pid, connection = _fork(listener.accept()[0])
                    selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, connection))
                else:
                    pid, connection = key.data
                    # Who asked for it may have ended.
                    with connection, contextlib.suppress(OSError):
                        connection.sendall(struct.pack("i", os.waitpid(pid, 0)[1]))
                    selector.unregister(key.fileobj)
                    os.close(key.fd)


def _fork(connection: socket.socket) -> tuple[int, socket.socket]:
    size, descriptors, *_ = socket.recv_fds(connection, 4, 3)
    data, length = b"", struct.unpack("i", size)[0]
    while len(data) < length:
        data += connection.recv(length - len(data))
    request = json.loads(data)
    if (pid := os.fork()) == 0:
        _be(request, descriptors)
    for each in descriptors:
        os.close(each)
    connection.sendall(struct.pack("i", pid))
    return pid, connection


def _be(request: Mapping[str, Any], descriptors: list[int]) -> NoReturn:
    """The new process, up to its end."""
    code = 70
    try:
        for number, given in enumerate(descriptors):
            os.dup2(given, number)
        os.closerange(3, 1 << 16)
        if request["new_session"]:
            os.setsid()
        os.environ.clear()
        os.environ.update(request["environment"])
        os.chdir(request["folder"])
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _open_streams()
        if not _show(request["words"], request["environment"]):
            os.execv(request["words"][0], request["words"])
        code = _run(request["words"])
    except OSError:
        traceback.print_exc()
    finally:
        os._exit(code)


def _show(words: list[str], environment: Mapping[str, str]) -> bool:
    """Have both under /proc, where tests look for processes; false where the kernel does not let
    it (prctl(2), PR_SET_MM_MAP).
    """
    strings = words, [f"{name}={value}" for name, value in environment.items()]
    blocks = [b"".join(os.fsencode(each) + b"\0" for each in some) for some in strings]
    _shown.extend(ctypes.create_string_buffer(block, len(block)) for block in blocks)
    places = [
        place
        for each in _shown
        for place in (ctypes.addressof(each), ctypes.addressof(each) + len(each))
    ]
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    code, stack, data, heap = fields[23:25], fields[25], fields[42:44], fields[44]
    libc = ctypes.CDLL(None)
    libc.sbrk.restype = ctypes.c_void_p
    # struct prctl_mm_map: all of it is set at once, most of it to what it is.
    no_auxv, no_file = 0, 0xFFFFFFFF << 32
    layout = (ctypes.c_uint64 * 13)(
        *map(int, (*code, *data, heap, 0, stack)), *places, no_auxv, no_file
    )
    ctypes.create_string_buffer(100_000)  # so that nothing below makes the heap grow
    layout[5] = libc.sbrk(0)
    size, option = ctypes.c_ulong(ctypes.sizeof(layout)), ctypes.c_ulong(_PR_SET_MM_MAP)
    failed = libc.prctl(_PR_SET_MM, option, ctypes.byref(layout), size, ctypes.c_ulong(0))
    return not failed


_PR_SET_MM, _PR_SET_MM_MAP = 35, 14
_shown: list[Any] = []
"""What the kernel reads there must stay in memory."""


def _open_streams() -> None:
    """As an interpreter does that starts."""
    for name, number, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        stream = open(  # noqa: SIM115
            number,
            mode,
            buffering=1 if number == 2 else -1,
            encoding="utf-8",
            errors="backslashreplace" if number == 2 else None,
            closefd=False,
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _run(words: list[str]) -> int:
    """The exit status."""
    code = 0
    try:
        if words[: len(WORKER)] == WORKER:
            sys.argv = ["-m", *words[len(WORKER) :]]
            runpy.run_module("launch.worker", run_name="__main__", alter_sys=True)
        else:
            sys.argv = words[1:]
            runpy.run_path(words[1], run_name="__main__")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException as error:
        traceback.print_exc()
        code = 130 if isinstance(error, KeyboardInterrupt) else 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        code = 120  # as an interpreter says it
    return code


def _import_all() -> None:
    """What most commands and every worker need."""
    import launch.cli
    import launch.worker.worker

    for name in launch.cli.commands():
        launch.cli._parser(name)
    launch.worker.worker.warm_up()
    with contextlib.redirect_stdout(io.StringIO()):
        launch.cli.main(["plan", str(ROOT / "experiments" / "quickstart.yaml")])


if __name__ == "__main__":
    from tests.support import warm  # its forks must not know it by two names

    warm._import_all()
    gc.freeze()
    warm._address = sys.argv[1]
    warm.install()
    warm.serve(sys.argv[1])
    os._exit(0)
