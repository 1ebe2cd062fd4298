"""A Ray cluster to run on, joined or started for one command, and how its nodes are divided into
slots.
"""

import gc
import logging
import math
import os
import re
import shutil
import socket
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

from launch.backends.base import Limits
from launch.backends.ray.folder import ray_folder
from launch.backends.threads import thread_environment
from launch.errors import UsageError
from launch.garbage import without_gc
from launch.gpus import cores, visible_gpus
from launch.interpreter import checkout
from launch.paths import ROOT

OBJECT_STORE_BYTES = 100 * 2**20
"""Of a private cluster: nothing but paths and answers goes through it."""
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
_SETTINGS = 4
NICENESS = "RAY_worker_niceness"
"""What Ray starts has 15 by default, so beside anything else on its node a training would wait."""


def library() -> Any:
    """The module ray, imported when it is first needed."""
    import ray

    return ray


class Slots(NamedTuple):
    """How trials share the nodes: `wanted` workers, each with `cpus` and `gpus` (both may be
    fractions) for its processes.
    """

    wanted: int
    cpus: float
    gpus: float
    processes: int = 1

    @property
    def threads(self) -> int:
        """Of each process."""
        return max(1, int(self.cpus / self.processes))

    @property
    def per_gpu(self) -> int:
        return round(1 / self.gpus) if self.gpus else 0


def divide(nodes: Sequence[Mapping[str, float]], limits: Limits) -> Slots:
    """The largest share of CPUs with which all workers fit; on one node, what the backend `local`
    gives.

    Each node: {"CPU": 8, "GPU": 1}. The share does not depend on how many trials there are: on a
    CPU, their bits would.
    """
    gpus = sum(int(node.get("GPU", 0)) for node in nodes)
    cpus = sum(int(node.get("CPU", 0)) for node in nodes)
    if not cpus:
        raise UsageError("the Ray cluster has no CPUs to run trials on")
    wanted = limits.workers or gpus * limits.trials_per_gpu or cpus
    per_gpu = max(limits.trials_per_gpu, math.ceil(wanted / gpus)) if gpus else 0
    shares = [*range(cpus, 0, -1), *(_floor(1 / parts) for parts in range(2, wanted + 1))]
    for share in shares:
        if capacity(nodes, Slots(wanted, share, 1 / per_gpu if per_gpu else 0)) >= wanted:
            break
    return Slots(wanted, share, _floor(1 / per_gpu) if per_gpu else 0)


def divide_among_groups(
    nodes: Sequence[Mapping[str, float]], workers: int | None, processes: int
) -> Slots:
    """The same where so many processes train each trial, on one node, each on a GPU of its own
    where there are any.

    On one node, what the backend `local` gives. UsageError where no node has so many GPUs.
    """
    gpus = [int(node.get("GPU", 0)) for node in nodes]
    cpus = [int(node.get("CPU", 0)) for node in nodes]
    if any(gpus) and max(gpus) < processes:
        raise UsageError(
            f"there are trials that take {processes} GPUs each, and no node of the Ray cluster "
            f"has more than {max(gpus)}; "
            "--backend slurm spreads a trial over nodes, --gpus N trains each on fewer"
        )
    fit = [
        gpu // processes if any(gpus) else max(1, cpu // processes)
        for gpu, cpu in zip(gpus, cpus, strict=True)
    ]
    wanted = min(workers or sum(fit), sum(fit)) if any(gpus) else workers or sum(fit)
    smallest = min(cpu for cpu, count in zip(cpus, fit, strict=True) if count)
    share = min(smallest, max(1, sum(cpus) // wanted))
    if any(gpus):  # as many groups of a node as its GPUs allow must find their CPUs there
        share = min(
            max(1, cpu // min(count, wanted))
            for cpu, count in zip(cpus, fit, strict=True)
            if count
        )
    return Slots(wanted, share, processes if any(gpus) else 0, processes)


def _floor(share: float) -> float:
    """Ray counts in ten-thousandths; rounded down, so that the parts never exceed the whole."""
    return math.floor(share * 10_000) / 10_000


def capacity(nodes: Sequence[Mapping[str, float]], slots: Slots) -> int:
    """How many workers of that size fit on the nodes."""
    fit = 0
    for node in nodes:
        by_cpu = int(node.get("CPU", 0) / slots.cpus + 1e-6)
        fit += (
            min(by_cpu, int(int(node.get("GPU", 0)) / slots.gpus + 1e-3)) if slots.gpus else by_cpu
        )
    return fit


def nodes() -> list[dict[str, float]]:
    """What each living node of the cluster that is joined has in all."""
    ray = library()

    return [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]


@contextmanager
def joined(address: str | None, variables: Mapping[str, str] | None = None) -> Iterator[None]:
    """Be the driver of the cluster at `address`, or of a private one that ends with the block,
    processes and folder.

    variables    environment variables of all its workers, where not each actor is given its own
    UsageError, in one sentence, where that cannot be.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault(
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0"
    )  # we say which devices; Ray would warn
    if (
        address is None and "RAY_AUTH_MODE" not in os.environ
    ):  # else Ray would leave a token in the home folder
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": uuid.uuid4().hex}
    library()  # first: its import sets its logger up

    logging.getLogger("ray").setLevel(
        logging.CRITICAL
    )  # what matters is raised, and said in our words
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    quiet |= {"runtime_env": {"env_vars": dict(variables)}} if variables else {}
    with ray_folder() if address is None else nullcontext(None) as folder:
        try:
            # Ray puts the current folder first on its workers' path: let that be this checkout.
            with chdir(ROOT):
                if folder is not None:
                    os.environ.setdefault(NICENESS, "0")
                    _start_or_say_why(str(folder), quiet)
                else:
                    _join(str(address), quiet)
            yield
        finally:
            _shut_down()


def _shut_down() -> None:
    """Leave the cluster, with nothing of Ray's in the garbage: a thread that collected it just
    then would find the core worker gone, upon which Ray ends the whole process, with status 1.
    """
    gc.collect()
    with without_gc():
        library().shutdown()


def _start_or_say_why(folder: str, quiet: dict[str, Any]) -> None:
    """Ray gives its own processes 30 s; on a machine that is busy a second attempt is often
    enough.
    """
    for again in (True, False):
        try:
            return _start(folder, quiet)
        # Ray raises a bare Exception for a node that is not up in time, RuntimeError, ValueError.
        except Exception as error:
            _shut_down()
            if again and "timed out" in str(error):
                continue
            first = (str(error).strip().splitlines() or ["no reason given"])[0].rstrip(".")
            raise UsageError(
                f"Ray did not start on this machine: {first}; is it short of memory, processes or "
                "time? Ray's own words "
                f"are in {_kept(folder)}. --backend local needs no Ray"
            ) from None


def _kept(folder: str) -> Path:
    """Where the logs of a cluster that did not start are, once its folder is gone."""
    logs = Path(tempfile.mkdtemp(prefix="rm-ray-logs-"))
    for path in Path(folder).glob("session_*/logs/*.*"):
        if path.is_file():
            shutil.copy(path, logs / path.name)
    return logs


def _start(folder: str, quiet: dict[str, Any]) -> None:
    ray = library()

    ray.init(
        address="local",  # never a cluster that happens to run here
        num_cpus=cores(),
        num_gpus=len(visible_gpus()),
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        _temp_dir=folder,
        _node_ip_address="127.0.0.1",
        _system_config={"enable_worker_prestart": False, "prestart_worker_first_driver": False},
        **quiet,
    )


def _join(address: str, quiet: dict[str, Any]) -> None:
    ray = library()

    if address != "auto":
        _answers(address)
    try:
        ray.init(address=address, **quiet)
    except Exception as error:  # RuntimeError, ConnectionError, ValueError, and what gRPC adds
        raise UsageError(_explain(address, str(error))) from None


def _answers(address: str) -> None:
    """Raise UsageError at once where nothing listens, or something that does not speak gRPC; Ray
    would try for minutes.
    """
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=10) as connection:
            connection.sendall(_PREFACE)
            reply = connection.recv(9)
    except OSError as error:
        raise UsageError(
            f"no Ray cluster answers at {address} ({error.strerror or error})"
        ) from None
    if len(reply) < 4 or reply[3] != _SETTINGS:
        raise UsageError(f"what listens at {address} is not the head of a Ray cluster")


def _explain(address: str, text: str) -> str:
    """Ray's several lines as one sentence."""
    versions = re.findall(r"Ray: (\S+)\s+Python: (\S+)", text)
    if len(versions) == 2:
        (ray, python), (our_ray, our_python) = versions
        return (
            f"the Ray cluster at {address} runs Ray {ray} on Python {python}, this command Ray "
            f"{our_ray} on Python "
            f"{our_python}; both must be the same"
        )
    if address == "auto" and "Could not find any running Ray" in text:
        return (
            "--address auto finds no Ray cluster on this machine; name it as HOST:PORT, or "
            "leave --address out"
        )
    first = text.strip().splitlines()[0] if text.strip() else "no reason given"
    token = (
        ""
        if "RAY_AUTH_MODE" in os.environ
        else "; does it want a token? RAY_AUTH_MODE=token sends it"
    )
    return f"the Ray cluster at {address} cannot be joined: {first.rstrip('.')}{token}"


def environment(slots: Slots) -> dict[str, str]:
    """The environment variables of each worker."""
    variables = {name: value for name, value in os.environ.items() if name.startswith("RM_")}
    variables |= {**thread_environment(slots.threads), **checkout()}
    return variables if slots.gpus else {**variables, "CUDA_VISIBLE_DEVICES": ""}


def check_installed() -> None:
    """UsageError where `import ray` would fail."""
    import importlib.util

    if importlib.util.find_spec("ray") is None:
        raise UsageError(
            f"--backend ray needs the package ray, which {Path(sys.executable)} does not have: "
            "pip install 'ray[tune]', "
            "or use --backend local"
        )
