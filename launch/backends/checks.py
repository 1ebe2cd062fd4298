"""Whether this machine can do what the launcher needs: one line for each thing looked at, with
what to do where it cannot.
"""

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

from launch.gpus import visible_gpus
from launch.interpreter import child_environment
from launch.paths import results_dir, sqlite_file, tracking_is_on, tracking_uri, without_password
from launch.spec.trial import Trial
from rm import registry

LEAST_FREE_GIB = 2
COMFORTABLE_GIB = 20
SKEW_SECONDS = 30.0
"""Clocks that differ by more make heartbeats look old too early."""

PYTHON = """
import json, sys, time
began = time.monotonic()
import torch, torchvision, timm, numpy
gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
print(json.dumps({"python": sys.version.split()[0], "torch": torch.__version__, "gpus": gpus,
                  "seconds": round(time.monotonic() - began, 1)}))
"""
_DATA = """
import json, sys
from rm.datasets import DataError, load
try:
    data = load(sys.argv[1], json.loads(sys.argv[2]))
    print(json.dumps({"train": len(data.train), "test": len(data.test)}))
except DataError as error:
    print(json.dumps({"error": str(error)}))
"""
_NO_NETWORK = dict.fromkeys(
    ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9"
)
"""A doctor looks and does not download."""


class Check(NamedTuple):
    """What was looked at, and what was found; where something is wrong, with what to do."""

    level: Literal["ok", "note", "wrong"]
    what: str
    finding: str


def here(data: Mapping[str, Mapping[str, Any]], wanted: bool) -> Iterator[Check]:
    """Everything about this machine. `data`: the data sets to look for, with options; not
    `wanted`: only to tell.
    """
    yield python(run_python(PYTHON), visible_gpus())
    yield git()
    yield from results()
    for name, options in data.items():
        yield data_set(name, options, wanted)
    yield tracking()


def run_python(code: str, *words: str, **environment: str) -> dict[str, Any]:
    """What a Python of its own prints as JSON, with the repository on its path; {"error": ...}
    where it fails.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", code, *words],
            capture_output=True,
            text=True,
            timeout=600,
            env=child_environment(environment),
            check=True,
        )
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except subprocess.CalledProcessError as error:
        return {
            "error": (
                str(error.stderr).strip().splitlines() or [f"exit status {error.returncode}"]
            )[-1]
        }
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return found


def python(found: Mapping[str, Any], drivers: Sequence[str]) -> Check:
    """The environment that trains, and whether it sees the GPUs that the driver (`nvidia-smi`)
    shows.
    """
    if "error" in found:
        return Check(
            "wrong",
            "Python",
            f"{sys.executable}: {found['error']}; `make quickstart` sets up .venv",
        )
    seen = f"{found['python']}, torch {found['torch']}, imported in {found['seconds']} s; "
    if found["gpus"]:
        return Check(
            "ok",
            "Python",
            seen + f"{len(found['gpus'])} GPUs: {', '.join(sorted(set(found['gpus'])))}",
        )
    if drivers:
        why = (
            "a CPU build, or one too new for the driver; install the build that `nvidia-smi` "
            "can serve"
        )
        return Check(
            "wrong",
            "Python",
            f"{seen}{len(drivers)} GPUs here that torch does not see: it is {why}",
        )
    return Check("ok", "Python", seen + "no GPU: trains on CPU cores")


def git() -> Check:
    if shutil.which("git") is None:
        return Check("note", "git", "not found: provenance will not name a commit")
    return Check("ok", "git", "found")


def results() -> Iterator[Check]:
    """The folder of results: can be written, has room, locks files, and its clock agrees with
    ours.
    """
    folder = results_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor-") as file:
            file.write(b"x")
            file.flush()
            skew = clock_skew(Path(file.name))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            locked = _is_locked(Path(file.name))
    except OSError as error:
        yield Check(
            "wrong",
            "results",
            f"{folder}: {error}; set RM_RESULTS_DIR to a folder that can be written",
        )
        return
    free = shutil.disk_usage(folder).free / 2**30
    level: Literal["ok", "note", "wrong"]
    level = "ok" if free >= COMFORTABLE_GIB else "note" if free >= LEAST_FREE_GIB else "wrong"
    advice = (
        ""
        if level == "ok"
        else "; a ResNet-18 keeps 0.2 GB a trial while it trains: free some, or set RM_RESULTS_DIR"
    )
    yield Check(level, "results", f"{folder}: {free:.0f} GiB free{advice}")
    if not locked:
        yield Check(
            "wrong",
            "locks",
            f"{folder} does not lock files (flock); mount it with locks, or set RM_RESULTS_DIR",
        )
    else:
        yield Check("ok", "locks", "files are locked between processes")
    yield clock("clock", "this machine", skew)


def _is_locked(path: Path) -> bool:
    with path.open("r") as other:
        try:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def clock_skew(just_written: Path) -> float:
    """Our clock less the file system's, in seconds."""
    os.utime(just_written)
    return time.time() - just_written.stat().st_mtime


def clock(what: str, who: str, skew: float) -> Check:
    seen = f"{who} and the file system differ by {abs(skew):.1f} s"
    if abs(skew) > SKEW_SECONDS:
        return Check(
            "wrong", what, f"{seen}; heartbeats will look old: let NTP (chrony) set the clocks"
        )
    return Check("ok", what, seen)


def data_set(name: str, options: Mapping[str, Any], wanted: bool) -> Check:
    """Whether a data set is there and whole. It is really read, and not downloaded."""
    found = run_python(_DATA, name, json.dumps(options), **_NO_NETWORK)
    what = f"data {name}"
    if "error" not in found:
        return Check("ok", what, f"{found['train']:,} training and {found['test']:,} test images")
    return Check("wrong" if wanted else "note", what, str(found["error"]))


def all_data_sets() -> dict[str, dict[str, Any]]:
    """Every data set that there is, with its defaults."""
    return {
        name: _own({option.name: option.default for option in entry.options.values()})
        for name, entry in registry.entries("dataset").items()
    }


def data_sets_of(trials: Iterable[Trial]) -> dict[str, dict[str, Any]]:
    """The data sets that trials need, with the options of the last trial that has each."""
    return {
        str(trial.values["dataset"]["name"]): _own(trial.values["dataset"]) for trial in trials
    }


def _own(options: Mapping[str, Any]) -> dict[str, Any]:
    """A data set's own options, without those that every one has."""
    return {
        key: value
        for key, value in options.items()
        if key not in ("name", "limit", "test_limit", "held_out")
    }


def tracking() -> Check:
    """Whether the tracking store answers. Nothing depends on it while trials run."""
    if not tracking_is_on():
        return Check("ok", "tracking", "off (RM_TRACKING); `sync` mirrors when it is asked to")
    uri, folder = tracking_uri(), results_dir()
    later = "trials run without it, and `sync` mirrors later"
    if (file := sqlite_file(uri)) is not None:
        place = file.parent
        if os.access(place if place.exists() else folder, os.W_OK):
            return Check("ok", "tracking", uri)
        return Check(
            "wrong", "tracking", f"{place} cannot be written; set MLFLOW_TRACKING_URI ({later})"
        )
    error = reach(uri)
    if error is None:
        return Check("ok", "tracking", f"{without_password(uri)} answers")
    return Check("wrong", "tracking", without_password(f"{uri}: {error}; {later}"))


def reach(uri: str) -> str | None:
    """Why a server does not answer (over HTTP: its /health; else its port), or None."""
    import socket
    import urllib.error
    import urllib.request

    parts = urlsplit(uri)
    try:
        if parts.scheme in ("http", "https"):
            with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=10):
                return None
        if parts.hostname:
            socket.create_connection((parts.hostname, parts.port or 5432), timeout=10).close()
    except urllib.error.HTTPError as error:
        return (
            None if error.code in (401, 403, 404) else f"HTTP {error.code}"
        )  # it is there, and wants a password
    except (OSError, ValueError) as error:
        return str(error)
    return None
