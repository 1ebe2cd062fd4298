"""`serve`: MLflow's server and web pages, on this machine alone, over the store
that `sync` writes.

The store is $MLFLOW_BACKEND_STORE_URI (PostgreSQL, say), else the sqlite file
in the results folder. What follows `--` goes to `mlflow server` as it is. The
server answers only requests that name it as it knows itself, so that no web
page can be tricked into reading the records: to open it to other machines, say
by which names they reach it, and put a login before it:

    python launch/run.py serve --host 0.0.0.0 -- \\
        --allowed-hosts "mlflow.example.org,10.0.0.5:*"

A launcher elsewhere then takes MLFLOW_TRACKING_URI=http://10.0.0.5:5000.
"""

import argparse
import errno
import os
import socket

from launch.commands import positive
from launch.console import say
from launch.errors import UsageError
from launch.interpreter import module_command
from launch.paths import results_dir, sqlite_uri

HELP = "start MLflow's server over the records, on this machine alone"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="the address to listen on (default: 127.0.0.1, loopback)",
    )
    parser.add_argument(
        "--port", type=positive, default=5000, help="the port to listen on (default: 5000)"
    )
    parser.add_argument(
        "further", nargs="*", metavar="-- OPTION", help="further options of `mlflow server`"
    )


def run(args: argparse.Namespace) -> int:
    """Becomes the server; the process number stays, so whoever started it can stop it."""
    _check_free(args.host, args.port)
    own = sqlite_uri(results_dir() / "mlflow.db")
    backend = os.environ.get("MLFLOW_BACKEND_STORE_URI") or own
    _initialise(backend)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # Eight more processes, for nothing that is here.
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    os.environ["MLFLOW_BACKEND_STORE_URI"] = (
        backend  # not in the command line, where everyone would read a password
    )
    artifacts = (results_dir() / "artifacts").as_uri()
    say(f"http://{args.host}:{args.port} shows {backend.split('@')[-1]}; Ctrl-C stops it")
    words = module_command("mlflow", "server", "--host", args.host, "--port", str(args.port))
    os.execv(
        words[0],
        [*words, "--workers", "2", "--artifacts-destination", artifacts, *args.further],
    )


def _check_free(host: str, port: int) -> None:
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UsageError(
                f"port {port} is taken; another one: serve --port {port + 1}"
            ) from None
        raise UsageError(f"cannot listen on {host}:{port}: {error.strerror}") from None


def _initialise(backend: str) -> None:
    """Before the first request: two processes that make the tables at the same time fail, the
    server's own among them.
    """
    from launch.tracking.mirror import initialise

    os.environ["MLFLOW_TRACKING_URI"] = backend
    try:
        initialise()
    except Exception as error:  # whatever MLflow, SQLAlchemy or a driver throws
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UsageError(
            f"the store {backend.split('@')[-1]} cannot be opened: {lines[0]}"
        ) from None
    finally:
        del os.environ["MLFLOW_TRACKING_URI"]
