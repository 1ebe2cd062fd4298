"""Mirrors again and again in forked processes, as told on standard input; run by the kill tests as
a process of its own.

Forking after MLflow's import makes a mirror in milliseconds instead of seconds. For each line
`mirror [KILL_AFTER]` a child mirrors all run directories; KILL_AFTER seconds after it has opened
the store it is killed with SIGKILL. The answer is one line: `killed`, `done` or `error ...`.
"""

import os
import signal
import sys
import time

import mlflow
import mlflow.store.tracking.rest_store
import mlflow.store.tracking.sqlalchemy_store  # noqa: F401

from launch.paths import runs_dir
from launch.tracking import mirror
from launch.tracking.client import connect, experiment


def child(opened: int) -> None:
    try:
        if (
            os.environ.get("MLFLOW_TRACKING_URI", "").startswith("http")
            or (runs_dir().parent / "mlflow.db").exists()
        ):
            experiment(connect())
        os.write(opened, b".")
        mirror.mirror(sorted(path for path in runs_dir().iterdir()))
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}"[:2000].encode())
        os._exit(1)
    os._exit(0)


for line in sys.stdin:
    _, *after = line.split()
    opened, told = os.pipe()
    failed, failing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(failing, 2)
        child(told)
    os.close(told)
    os.close(failing)
    if after:
        os.read(opened, 1)  # or the end, where it died before
        time.sleep(float(after[0]))
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    message = os.read(failed, 2000).decode(errors="replace").replace("\n", " ")
    killed = os.WIFSIGNALED(status)
    print("killed" if killed else f"error {message}" if status else "done", flush=True)
    os.close(opened)
    os.close(failed)
