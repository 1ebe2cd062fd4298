"""The job by which `doctor --submit` tries a node: files, Python, GPUs, signals, requeueing."""

import json
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from launch.backends import checks
from launch.backends.checks import Check
from launch.backends.slurm import cli, jobs
from launch.backends.slurm.cli import SlurmError
from launch.backends.slurm.jobs import JobRef
from launch.backends.slurm.site import Site
from launch.backends.slurm.submissions import sbatch
from launch.console import say
from launch.paths import data_dir
from launch.runs.job import Job

START_SECONDS = 300.0
"""How long the job may wait in the queue before it is given up."""
NODE_SECONDS = 240.0
"""How long a node may take to start Python and import torch, which is slow from a network file
system.
"""
SIGNAL_SECONDS = 20.0
POLL_SECONDS = 0.5

Write = Callable[[Path, str, Site], Path]
"""(folder, command, site) -> an sbatch script that runs the command as a trial's job would."""


class NodeTest:
    """A job that reports from its node, is sent both signals, and is requeued; it is cancelled in
    the end, whatever happens.
    """

    def __init__(self, folder: Path, site: Site, write: Write) -> None:
        self.folder, self.site = folder, site
        self.job = JobRef("", folder.name)
        short = site.model_copy(update={"time": "00:10:00", "trials_per_job": 1})
        command = [
            sys.executable,
            "-u",
            "-m",
            "launch.backends.slurm.node_probe",
            str(folder),
            str(data_dir()),
        ]
        self.script = write(folder, shlex.join(command), short)

    def run(self) -> Iterator[Check]:
        (self.folder / "hello").write_text(self.folder.name, encoding="utf-8")
        try:
            array = sbatch(self.script, self.folder.name)
            self.job = JobRef(f"{array}_0", self.folder.name)
            say(f"job {self.job.id} tests a node; Ctrl-C cancels it")
            yield from self._look()
        except SlurmError as error:
            yield Check("wrong", "node", str(error))
        finally:
            if self.job.id:
                try:
                    jobs.cancel([self.job])
                except SlurmError as error:
                    say(
                        f"job {self.job.id} could not be cancelled, and ends by itself within 10 "
                        f"minutes: {error}"
                    )

    def _look(self) -> Iterator[Check]:
        node = self._await("node.json", START_SECONDS)
        if node is None:
            yield self._why_no_node()
            return
        yield Check("ok", "node", f"{node['host']}, {node['cpus']} CPU cores")
        yield self._shared(node)
        yield checks.clock("node's clock", str(node["host"]), float(node["skew"]))
        found = self._await("python.json", NODE_SECONDS)
        if found is None:
            yield Check(
                "wrong",
                "node's Python",
                f"importing torch took more than {NODE_SECONDS:.0f} s; install it on a faster "
                "disk",
            )
            return
        yield checks.python(found, [])._replace(what="node's Python")
        yield self._gpus(node, found)
        yield self._data(node)
        for name in ("USR2", "TERM"):
            yield self._signal(name)
        yield self._requeue()

    def _await(self, name: str, seconds: float) -> dict[str, Any] | None:
        """What the probe wrote, once it has; None where it has not in time, or its job has
        ended.
        """
        deadline, ended = time.monotonic() + seconds, False
        while time.monotonic() < deadline:
            if any(
                path.name == name for path in self.folder.iterdir()
            ):  # lists it, which NFS does not answer from memory
                found: dict[str, Any] = json.loads(
                    (self.folder / name).read_text(encoding="utf-8")
                )
                return found
            if ended:
                return None
            ended = self._state().state == "gone"
            time.sleep(POLL_SECONDS)
        return None

    def _state(self) -> Job:
        return jobs.states([self.job])[self.job]

    def _why_no_node(self) -> Check:
        job = self._state()
        if job.state == "pending":
            return Check(
                "note",
                "node",
                f"not tested: the job still waits after {START_SECONDS:.0f} s ({job.where})",
            )
        printed = [
            line
            for path in self.folder.glob("*.out")
            for line in path.read_text(errors="replace").splitlines()
        ]
        where = (
            "; ".join(printed[-3:])
            or f"nothing was printed; is {self.folder.parent} shared with the nodes?"
        )
        return Check(
            "wrong", "node", f"the job ({job.state}, {job.where}) printed nothing of use: {where}"
        )

    def _shared(self, node: Mapping[str, Any]) -> Check:
        if node["hello"] != self.folder.name:
            return Check(
                "wrong",
                "shared files",
                f"{node['host']} does not read what is written here: {node['hello']}",
            )
        return Check(
            "ok",
            "shared files",
            f"written here and read on {node['host']}, and the other way round",
        )

    def _gpus(self, node: Mapping[str, Any], found: Mapping[str, Any]) -> Check:
        granted = [gpu for gpu in str(node["gpus"] or "").split(",") if gpu]
        wanted, seen = self.site.gpus_per_trial, len(found.get("gpus", []))
        if len(granted) != wanted:
            why = f"CUDA_VISIBLE_DEVICES is {node['gpus']!r}, for gpus_per_trial {wanted}"
            return Check(
                "wrong",
                "GPUs",
                f"{why}; the nodes' gres.conf, or sbatch extra options, must give them",
            )
        if seen < wanted:
            return Check(
                "wrong",
                "GPUs",
                f"{wanted} were given ({node['gpus']}), and torch sees {seen}: a CPU build, or no "
                "driver",
            )
        return Check("ok", "GPUs", f"{wanted} given, {seen} seen by torch")

    def _data(self, node: Mapping[str, Any]) -> Check:
        if data_dir().is_dir() and not node["data"]:
            return Check(
                "wrong",
                "node's data",
                f"{data_dir()} is here and not on {node['host']}; set RM_DATA_DIR to a shared "
                "folder",
            )
        return Check(
            "ok", "node's data", f"{data_dir()} {'is there' if node['data'] else 'is nowhere yet'}"
        )

    def _signal(self, name: str) -> Check:
        meaning = {"USR2": "the warning before the time limit", "TERM": "preemption and scancel"}[
            name
        ]
        cli.ask("scancel", f"--signal={name}", self.job.id)
        received = self._await(f"{name}.json", SIGNAL_SECONDS)
        if received is None:
            what = f"SIG{name} ({meaning}) did not reach Python within {SIGNAL_SECONDS:.0f} s"
            return Check(
                "wrong",
                "signals",
                f"{what}; trials would lose what is newer than their last checkpoint (5 minutes)",
            )
        return Check("ok", "signals", f"SIG{name} ({meaning}) reached Python")

    def _requeue(self) -> Check:
        try:
            cli.ask("scontrol", "requeue", self.job.id)
        except SlurmError as error:
            return Check(
                "wrong",
                "requeue",
                f"{error}; a trial that needs more than one time limit needs `run` again for each",
            )
        deadline = time.monotonic() + SIGNAL_SECONDS
        while self._state().state != "pending" and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        job = self._state()
        if job.state != "pending":
            return Check(
                "note",
                "requeue",
                f"accepted, but the job is {job.state} rather than waiting again ({job.where})",
            )
        return Check("ok", "requeue", "the job went back into the queue")
