"""The process that the tests' commands and workers are forked off (see `tests/support/warm.py`).

python -P -m tests.support.template NAME      until its standard input ends
"""

import atexit
import contextlib
import ctypes
import gc
import importlib
import io
import json
import os
import runpy
import selectors
import signal
import socket
import struct
import sys
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from tests.support import warm
from tests.support.trials import ROOT
from tests.support.warm import WORKER

MLFLOWS_STORES = ("mlflow.store.tracking.sqlalchemy_store", "mlflow.store.tracking.rest_store")


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
                    connection = listener.accept()[0]
                    if (pid := _fork(connection)) is not None:
                        handle = os.pidfd_open(pid)
                        selector.register(handle, selectors.EVENT_READ, (pid, connection))
                else:
                    pid, connection = key.data
                    status = os.waitpid(pid, 0)[1]
                    with connection, contextlib.suppress(OSError):  # who asked may have ended
                        connection.sendall(struct.pack("i", status))
                    selector.unregister(key.fileobj)
                    os.close(key.fd)


def _fork(connection: socket.socket) -> int | None:
    """The new process; None where who asked for it was killed before it had said all."""
    size, descriptors, *_ = socket.recv_fds(connection, 4, 3)
    with contextlib.closing(connection.makefile("rb")) as file:
        data = file.read(struct.unpack("i", size)[0]) if size else b""
    pid = None
    with contextlib.suppress(ValueError):  # a part of it is no JSON
        request = json.loads(data)
        if (pid := os.fork()) == 0:
            _be(request, descriptors, connection)
    for each in descriptors:
        os.close(each)
    return pid


def _be(request: Mapping[str, Any], descriptors: list[int], connection: socket.socket) -> NoReturn:
    """The new process, up to its end."""
    code = 70
    try:
        for number, given in enumerate(descriptors):
            os.dup2(given, number)
        if request["new_session"]:
            os.setsid()
        # Only now may it be sent signals: to its session, too. Who asked may have been killed.
        with contextlib.suppress(OSError):
            connection.sendall(struct.pack("i", os.getpid()))
        os.closerange(3, 1 << 16)
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
    for module in ("mlflow", *MLFLOWS_STORES):
        importlib.import_module(module)
    with contextlib.redirect_stdout(io.StringIO()):
        launch.cli.main(["plan", str(ROOT / "experiments" / "quickstart.yaml")])


if __name__ == "__main__":
    _import_all()
    gc.freeze()
    warm.be_of(warm.in_memory(sys.argv[1]))
    serve(warm.in_memory(sys.argv[1]))
    os._exit(0)
