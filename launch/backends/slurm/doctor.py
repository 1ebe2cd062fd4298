"""What `doctor` asks a SLURM cluster: its configuration, whether it would take our jobs, and, by a
job, what a node does.
"""

import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

from launch.backends.checks import Check
from launch.backends.slurm import cli
from launch.backends.slurm.cli import SlurmError
from launch.backends.slurm.doctor_job import NodeTest, Write
from launch.backends.slurm.site import Site
from launch.paths import results_dir


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
            yield from NodeTest(folder, site, write).run()
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
    kill_wait = config.get("KillWait", "30 sec")
    seconds = int(kill_wait.split()[0]) if kill_wait.split()[0].isdigit() else 30
    if seconds < 10:
        return Check(
            "note",
            "KillWait",
            f"{kill_wait} between SIGTERM and SIGKILL: too short for a large checkpoint; ask for "
            "30 s",
        )
    return Check("ok", "KillWait", f"{kill_wait} to checkpoint after SIGTERM")


def _would_take(script: Path) -> Check:
    """SLURM's own word on partition, account, qos, limits and GPUs."""
    try:
        cli.ask("sbatch", "--test-only", str(script))
    except SlurmError as error:
        return Check(
            "wrong", "site settings", f"{error}; see launch/site.yaml, or --slurm key=value"
        )
    return Check("ok", "site settings", "sbatch would take such a job")
