"""What `doctor` asks a SLURM cluster: its configuration, whether it would take our jobs, and, by a
job, what a node does.
"""

import json
import shlex
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from launch.backends import checks
from launch.backends.checks import Check
from launch.backends.slurm import cli
from launch.backends.slurm.cli import SlurmError
from launch.backends.slurm.site import Site
from launch.console import say
from launch.paths import data_dir, results_dir

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


def diagnose(site: Site, submit: bool, write: Write) -> Iterator[Check]:
    """Every check, one after the other; those behind one that must hold are left out where it does
    not.
    """
    lacking = [
        each
        for each in ("sbatch", "squeue", "scontrol", "scancel", "srun")
        if shutil.which(each) is None
    ]
    if lacking:
        yield Check(
            "wrong",
            "slurm",
            f"{', '.join(lacking)} not found; run doctor on a login node of the cluster",
        )
        return
    try:
        config = cli.configuration()
    except SlurmError as error:
        yield Check("wrong", "slurm", f"the controller cannot be asked: {error}")
        return
    yield Check(
        "ok",
        "slurm",
        f"{config.get('SLURM_VERSION', '?')}, cluster {config.get('ClusterName', '?')}",
    )
    yield _accounting(config)
    yield _arrays()
    yield _preemption(config)
    yield _kill_wait(config)
    folder = results_dir() / "slurm" / f"doctor-{uuid.uuid4().hex[:8]}"
    folder.mkdir(parents=True)
    try:
        taken = _would_take(write(folder, "true", site))
        yield taken
        if submit and taken.level == "ok":
            yield from _Probe(folder, site, write).run()
        elif not submit:
            yield Check("note", "node", "not tested; --submit sends a job of about 20 s that does")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _accounting(config: Mapping[str, str]) -> Check:
    if not cli.has_accounting():
        age = config.get("MinJobAge", "?")
        return Check(
            "note",
            "accounting",
            f"none: how a job ended is known for {age}; nothing of ours depends on it",
        )
    if shutil.which("sacct") is None:
        return Check("note", "accounting", "the cluster has it, but sacct is not found here")
    try:
        cli.ask("sacct", "-X", "-n", "-P", "-o", "JobID", "-S", "now-1hours")
    except SlurmError as error:
        return Check(
            "note", "accounting", f"sacct does not answer ({error}); nothing of ours depends on it"
        )
    return Check("ok", "accounting", "sacct answers")


def _arrays() -> Check:
    most = cli.most_tasks()
    if most < 2:
        return Check("note", "MaxArraySize", "arrays are off: each trial becomes a job of its own")
    return Check(
        "ok", "MaxArraySize", f"{most} tasks in an array; more trials become several arrays"
    )


def _preemption(config: Mapping[str, str]) -> Check:
    kind, mode = config.get("PreemptType", "none"), config.get("PreemptMode", "OFF")
    requeue = f"JobRequeue={config.get('JobRequeue', '?')} (jobs ask for --requeue themselves)"
    if "none" in kind or mode == "OFF":
        return Check("ok", "preemption", f"none; {requeue}")
    if "REQUEUE" in mode or "SUSPEND" in mode:
        return Check("ok", "preemption", f"{mode}; {requeue}")
    return Check(
        "note",
        "preemption",
        f"{mode}: a preempted trial checkpoints and ends; `run` resumes it. Ask for "
        "PreemptMode=REQUEUE",
    )


def _kill_wait(config: Mapping[str, str]) -> Check:
    said = config.get("KillWait", "30 sec")
    seconds = int(said.split()[0]) if said.split()[0].isdigit() else 30
    if seconds < 10:
        return Check(
            "note",
            "KillWait",
            f"{said} between SIGTERM and SIGKILL: too short for a large checkpoint; ask for 30 s",
        )
    return Check("ok", "KillWait", f"{said} to checkpoint after SIGTERM")


def _would_take(script: Path) -> Check:
    """SLURM's own word on partition, account, qos, limits and GPUs."""
    try:
        cli.ask("sbatch", "--test-only", str(script))
    except SlurmError as error:
        return Check(
            "wrong", "site settings", f"{error}; see launch/site.yaml, or --slurm key=value"
        )
    return Check("ok", "site settings", "sbatch would take such a job")


class _Probe:
    """A job that reports from its node, is sent both signals, and is requeued; it is cancelled in
    the end, whatever happens.
    """

    def __init__(self, folder: Path, site: Site, write: Write) -> None:
        self.folder, self.site, self.job = folder, site, ""
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
            said = cli.ask("sbatch", "--parsable", str(self.script), seconds=120)
            self.job = f"{said.strip().partition(';')[0]}_0"
            say(f"job {self.job} tests a node; Ctrl-C cancels it")
            yield from self._look()
        except SlurmError as error:
            yield Check("wrong", "node", str(error))
        finally:
            if self.job:
                try:
                    cli.ask("scancel", "--quiet", self.job.partition("_")[0])
                except SlurmError as error:
                    say(
                        f"job {self.job} could not be cancelled, and ends by itself within 10 "
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
            ended = cli.states([self.job])[self.job].state == "gone"
            time.sleep(POLL_SECONDS)
        return None

    def _why_no_node(self) -> Check:
        job = cli.states([self.job])[self.job]
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
        return Check("wrong", "node", f"the job ({job.state}, {job.where}) left no word: {where}")

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
        given = [gpu for gpu in str(node["gpus"] or "").split(",") if gpu]
        wanted, seen = self.site.gpus_per_trial, len(found.get("gpus", []))
        if len(given) != wanted:
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
        cli.ask("scancel", f"--signal={name}", self.job)
        heard = self._await(f"{name}.json", SIGNAL_SECONDS)
        if heard is None:
            what = f"SIG{name} ({meaning}) did not reach Python within {SIGNAL_SECONDS:.0f} s"
            return Check(
                "wrong",
                "signals",
                f"{what}; trials would lose what is newer than their last checkpoint (5 minutes)",
            )
        return Check("ok", "signals", f"SIG{name} ({meaning}) reached Python")

    def _requeue(self) -> Check:
        try:
            cli.ask("scontrol", "requeue", self.job)
        except SlurmError as error:
            return Check(
                "wrong",
                "requeue",
                f"{error}; a trial that needs more than one time limit needs `run` again for each",
            )
        deadline = time.monotonic() + SIGNAL_SECONDS
        while cli.states([self.job])[self.job].state != "pending" and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        job = cli.states([self.job])[self.job]
        if job.state != "pending":
            return Check(
                "note",
                "requeue",
                f"accepted, but the job is {job.state} rather than waiting again ({job.where})",
            )
        return Check("ok", "requeue", "the job went back into the queue")
