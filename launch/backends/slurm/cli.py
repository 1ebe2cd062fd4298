"""SLURM's own commands, asked with a time limit: what runs, what the cluster allows, what is
requeued or withdrawn.
"""

import functools
import os
import re
import subprocess
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from launch.runs.job import Job

SECONDS = 30.0
"""How long a command may take; SLURM's own retries stay below that where the controller is
alive.
"""

_PENDING = {"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
_RUNNING = {
    "RUNNING",
    "COMPLETING",
    "CONFIGURING",
    "RESIZING",
    "SIGNALING",
    "STAGE_OUT",
    "STOPPED",
    "SUSPENDED",
}
_UNKNOWN_ID = "Invalid job id specified"
_MOST_WORDS = 500
"""Job ids in one scancel."""


class SlurmError(RuntimeError):
    """A SLURM command failed or did not answer; the message is what it printed."""


def ask(*words: str, seconds: float = SECONDS) -> str:
    """What a SLURM command prints. Raises SlurmError where it fails, does not answer in time, or
    is not there.

    SLURM's variables of a job around us (people launch from interactive jobs) are not passed on:
    sbatch would obey them.
    """
    around = {
        k: v
        for k, v in os.environ.items()
        if not k.startswith(("SLURM_", "SBATCH_")) or k == "SLURM_CONF"
    }
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=seconds, env=around, check=False
        )
    except FileNotFoundError as error:
        raise SlurmError(f"{words[0]} is not there") from error
    except subprocess.TimeoutExpired as error:
        raise SlurmError(f"{words[0]} did not answer within {seconds:.0f} s") from error
    except OSError as error:
        raise SlurmError(f"{words[0]}: {error}") from error
    if done.returncode:
        raise SlurmError(
            f"{words[0]}: "
            f"{(done.stderr or done.stdout).strip() or f'exit status {done.returncode}'}"
        )
    return done.stdout


@functools.cache
def configuration() -> dict[str, str]:
    """What `scontrol show config` says, by key."""
    lines = ask("scontrol", "show", "config").splitlines()
    return {
        key.strip(): value.strip()
        for key, equals, value in (line.partition("=") for line in lines)
        if equals
    }


def most_tasks() -> int:
    """Tasks in one array: an index is at most MaxArraySize - 1, and begins at 0. Without arrays:
    1.
    """
    return max(1, int(configuration().get("MaxArraySize", "1001")))


def has_accounting() -> bool:
    return (
        configuration().get("AccountingStorageType", "accounting_storage/none")
        != "accounting_storage/none"
    )


def states(ids: Iterable[str]) -> dict[str, Job]:
    """The state of these jobs and array tasks (`12`, `12_3`): one squeue, and one sacct for what
    it knows no more.
    """
    wanted = set(ids)
    bases = sorted({each.partition("_")[0] for each in wanted}, key=int)
    if not bases:
        return {}
    try:
        found = _squeue(bases)
    except SlurmError as error:
        return {each: Job(each, "unknown", str(error).splitlines()[0]) for each in wanted}
    gone = wanted - set(found)
    ends = _sacct(gone) if gone else {}
    return {each: found.get(each) or Job(each, "gone", ends.get(each, "")) for each in wanted}


def _squeue(bases: Sequence[str]) -> dict[str, Job]:
    words = [
        "squeue",
        "--noheader",
        "--array",
        "--states=all",
        "--format=%i|%T|%N|%r",
        f"--jobs={','.join(bases)}",
    ]
    try:
        lines = ask(*words).splitlines()
    except SlurmError as error:
        if _UNKNOWN_ID in str(error):
            return {}
        raise
    found = {}
    for line in lines:
        identity, state, nodes, reason = line.split("|", 3)
        if state in _PENDING:
            found[identity] = Job(identity, "pending", reason)
        elif state in _RUNNING:
            found[identity] = Job(identity, "running", nodes)
        else:
            found[identity] = Job(identity, "gone", state)
    return found


def _sacct(ids: Iterable[str]) -> dict[str, str]:
    """How jobs ended that squeue has forgotten; nothing where there is no accounting, or none that
    answers.
    """
    bases = {each.partition("_")[0] for each in ids}
    try:
        if not has_accounting():
            return {}
        output = ask("sacct", "-X", "-n", "-P", "-o", "JobID,State", "-j", ",".join(sorted(bases)))
    except SlurmError:
        return {}
    lines = (line.split("|", 1) for line in output.splitlines() if "|" in line)
    return {identity: state for which, state in lines for identity in expand(which)}


def expand(which: str) -> list[str]:
    """`7_[0-2,5%2]`, an array that was ended before its tasks had records of their own, as one id
    a task.
    """
    found = re.fullmatch(r"(\d+)_\[([\d,-]+)(%\d+)?\]", which)
    if found is None:
        return [which]
    spans = (part.partition("-") for part in found[2].split(","))
    return [
        f"{found[1]}_{i}" for low, _, high in spans for i in range(int(low), int(high or low) + 1)
    ]


def by_name(name: str) -> list[str]:
    """The ids (of whole arrays) that carry a job name, oldest first, ended ones too as long as
    SLURM remembers them.
    """
    output = ask("squeue", "--noheader", "--states=all", f"--name={name}", "--format=%F")
    found = set(output.split())
    try:
        if not found and has_accounting():
            output = ask(
                "sacct", "-X", "-n", "-P", "-o", "JobID", f"--name={name}", "-S", "now-7days"
            )
            found = {line.partition("_")[0] for line in output.split()}
    except SlurmError:
        pass
    return sorted(found, key=int)


def cancel(ids: Sequence[str]) -> None:
    """scancel of exactly these. (Its --state takes whole arrays for their tasks, in SLURM
    22.05.)
    """
    for start in range(0, len(ids), _MOST_WORDS):
        ask("scancel", "--quiet", *ids[start : start + _MOST_WORDS])


class SlurmJobContext(NamedTuple):
    """The job that this process is part of, as its environment says."""

    id: str
    task: int
    restarts: int
    node: str
    cpus: int

    @classmethod
    def read(cls) -> "SlurmJobContext":
        have = os.environ
        array, index = have.get("SLURM_ARRAY_JOB_ID"), have.get("SLURM_ARRAY_TASK_ID")
        identity = f"{array}_{index}" if array and index else have["SLURM_JOB_ID"]
        cpus = have.get("SLURM_CPUS_PER_TASK") or have.get("SLURM_CPUS_ON_NODE") or "1"
        node = have.get("SLURMD_NODENAME") or have.get("SLURM_JOB_NODELIST", "")
        return cls(
            identity, int(index or 0), int(have.get("SLURM_RESTART_COUNT", 0)), node, int(cpus)
        )


def requeue(job: SlurmJobContext) -> str:
    """Put this job back into the queue if that is for us to do; returns what was done, in words.

    It is where the job still runs (SLURM warns before the time limit, or before it preempts) or
    ran into its limit. It is not where someone ended it (scancel), where SLURM requeues it itself
    (preemption, a lost node), or where it runs again already.
    """
    shown = fields(ask("scontrol", "--oneliner", "show", "job", job.id))
    state, reason = shown.get("JobState", "?"), shown.get("Reason", "?")
    if int(shown.get("Restarts", job.restarts)) != job.restarts:
        return "SLURM has requeued it already"
    if state not in ("RUNNING", "TIMEOUT", "PREEMPTED") and reason != "TimeLimit":
        return f"left as SLURM has it: {state}"
    ask("scontrol", "requeue", job.id)
    return "requeued"


def fields(line: str) -> dict[str, str]:
    """scontrol's `Key=value Key=value ...`; the first of equal keys counts."""
    found: dict[str, str] = {}
    for key, value in re.findall(r"(\S+?)=(\S*)", line):
        found.setdefault(key, value)
    return found
