"""Jobs as SLURM has them: their states; what is requeued or withdrawn."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from launch.backends.slurm.cli import (
    SlurmError,
    ask,
    cluster_name,
    fields,
    has_accounting,
)
from launch.paths import results_dir
from launch.runs.job import Job

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
ENDING = "COMPLETING"
"""Where a job is that has ended, while its node is cleaned up (an Epilog may take a while)."""
_NOT_ENDED = {"", "NONE", "N/A", "Unknown"}
"""The end time of a job that was requeued while its node is cleaned up: it will come back."""
_HELD = {
    "launch failed requeued held": "its node could not start it",
    "job requeued in held state": "it was requeued and held",
    "JobHeldAdmin": "it is held by an administrator",
    "JobHeldUser": "it is held",
}


class JobRef(NamedTuple):
    """A job, or a task of an array. A controller that was killed may give an id twice, and other
    clusters have the same ones: an id counts only with the name beside it, on its cluster.
    """

    id: str
    name: str
    cluster: str | None = None
    """None where it was not noted."""

    @classmethod
    def of(cls, line: Mapping[str, Any]) -> "JobRef":
        """The job of a line of jobs.jsonl."""
        return cls(str(line.get("id")), str(line.get("name")), line.get("cluster"))


def states(jobs: Iterable[JobRef]) -> dict[JobRef, Job]:
    """The state of these jobs and array tasks (`12`, `12_3`): one squeue, and one sacct for what
    it knows no more.

    A job of that id with another name is a stranger: ours is gone.
    """
    wanted = set(jobs)
    known = {job for job in wanted if re.fullmatch(r"\d+(_\d+)?", job.id)}
    found: dict[JobRef, Job] = {job: Job(job.id, "gone", "") for job in wanted - known}
    if not known:
        return found
    try:
        found |= _elsewhere(known)
        here = known - found.keys()
        queue = _squeue(sorted({job.id.partition("_")[0] for job in here}, key=int))
    except SlurmError as error:
        silent = str(error).splitlines()[0]
        return found | {job: Job(job.id, "unknown", silent) for job in known - found.keys()}
    found |= {job: queue[job.id, job.name] for job in here if (job.id, job.name) in queue}
    ended = here - found.keys()
    ends = _sacct(job.id for job in ended) if ended else {}
    return found | {job: Job(job.id, "gone", ends.get((job.id, job.name), "")) for job in ended}


def _elsewhere(jobs: Iterable[JobRef]) -> dict[JobRef, Job]:
    """Those of other clusters, of which the one here knows nothing."""
    noted = [job for job in jobs if job.cluster]
    here = cluster_name() if noted else None
    return {
        job: Job(
            job.id,
            "unknown",
            f"job {job.id} was given to the cluster {job.cluster}, and SLURM here is {here}; "
            f"remove results/slurm/{job.name} to give it up",
        )
        for job in noted
        if job.cluster != here and (results_dir() / "slurm" / job.name).exists()
    }


def _squeue(bases: Sequence[str]) -> dict[tuple[str, str], Job]:
    """By id and name."""
    if not bases:
        return {}
    words = [
        "squeue",
        "--noheader",
        "--array",
        "--states=all",
        "--format=%i|%T|%e|%N|%r|%j",
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
        fields = line.split("|", 5)
        if len(fields) == 6:  # anything else is a notice of the site's
            identity, state, end, nodes, reason, name = fields
            found[identity, name] = _job(identity, state, end, nodes, reason)
    return found


def _job(identity: str, state: str, end: str, nodes: str, reason: str) -> Job:
    if state == ENDING and end not in _NOT_ENDED:
        return Job(identity, "gone", ENDING)
    if state in _PENDING:
        why = _HELD.get(reason.replace("_", " "))
        free = f"{why}; `scontrol release {identity}` lets it go" if why else ""
        return Job(identity, "pending", reason, free)
    if state in _RUNNING:
        return Job(identity, "running", nodes)
    return Job(identity, "gone", state)


def _sacct(ids: Iterable[str]) -> dict[tuple[str, str], str]:
    """How jobs ended that squeue has forgotten, by id and name; nothing where there is no
    accounting, or none that answers.
    """
    bases = {each.partition("_")[0] for each in ids}
    try:
        if not has_accounting():
            return {}
        wanted = "JobID,State,JobName"
        output = ask("sacct", "-X", "-n", "-P", "-o", wanted, "-j", ",".join(sorted(bases)))
    except SlurmError:
        return {}
    lines = (line.split("|", 2) for line in output.splitlines() if line.count("|") >= 2)
    return {(identity, name): state for which, state, name in lines for identity in expand(which)}


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
    SLURM remembers them; without those that it refused when they were submitted.
    """
    output = ask("squeue", "--noheader", "--states=all", f"--name={name}", "--format=%F|%T|%r")
    try:
        if not output.strip() and has_accounting():
            columns = ("-o", "JobID,State,Reason", f"--name={name}", "-S", "now-7days")
            output = ask("sacct", "-X", "-n", "-P", *columns)
    except SlurmError:
        pass
    found = set()
    for line in output.splitlines():
        identity, _, why = line.partition("|")
        base = identity.partition("_")[0]
        # "Requested node configuration is not available" leaves a job behind that has failed.
        if base.isdigit() and why.split("|") != ["FAILED", "BadConstraints"]:
            found.add(base)
    return sorted(found, key=int)


def cancel(jobs: Iterable[JobRef], *, pending: bool = False) -> None:
    """scancel of exactly these, as far as they are what SLURM has under their ids now.

    (In SLURM 22.05 scancel's --state and --name take whole arrays for their tasks.)

    pending   only those that have not started
    """
    alive = ("pending",) if pending else ("pending", "running")
    ids = [job.id for job, found in states(jobs).items() if found.state in alive]
    for start in range(0, len(ids), _MOST_WORDS):
        ask("scancel", "--quiet", *ids[start : start + _MOST_WORDS])


def cancel_array(identity: str, name: str) -> None:
    """scancel of a whole array, if it carries this name."""
    ask("scancel", "--quiet", f"--name={name}", identity)


class SlurmJobContext(NamedTuple):
    """The job that this process is part of, as its environment says."""

    id: str
    task: int
    restarts: int
    node: str
    cpus: int
    cluster: str | None

    @classmethod
    def read(cls) -> "SlurmJobContext":
        have = os.environ
        array, index = have.get("SLURM_ARRAY_JOB_ID"), have.get("SLURM_ARRAY_TASK_ID")
        identity = f"{array}_{index}" if array and index else have["SLURM_JOB_ID"]
        cpus = have.get("SLURM_CPUS_PER_TASK") or have.get("SLURM_CPUS_ON_NODE") or "1"
        node = have.get("SLURMD_NODENAME") or have.get("SLURM_JOB_NODELIST", "")
        return cls(
            identity,
            int(index or 0),
            int(have.get("SLURM_RESTART_COUNT", 0)),
            node,
            int(cpus),
            have.get("SLURM_CLUSTER_NAME"),
        )


class Requeued(NamedTuple):
    """What was done about a job that ends with work left."""

    words: str
    at_limit: bool = False
    """It ran into its time limit."""


def requeue(job: SlurmJobContext, name: str) -> Requeued:
    """Put this job, which has this name, back into the queue if that is for us to do.

    It is where the job still runs (SLURM warns before the time limit, or before it preempts) or
    ran into its limit. It is not where someone ended it (scancel), where SLURM requeues it itself
    (preemption, a lost node), or where it runs again already.
    """
    shown = fields(ask("scontrol", "--oneliner", "show", "job", job.id))
    state, reason = shown.get("JobState", "?"), shown.get("Reason", "?")
    if shown.get("JobName", name) != name:
        return Requeued(f"left alone: SLURM has given its id to {shown['JobName']}")
    if int(shown.get("Restarts", job.restarts)) != job.restarts:
        return Requeued("SLURM has requeued it already")
    at_limit = state == "TIMEOUT" or reason == "TimeLimit"
    if state not in ("RUNNING", "PREEMPTED") and not at_limit:
        return Requeued(f"left as SLURM has it: {state}")
    ask("scontrol", "requeue", job.id)
    return Requeued("requeued", at_limit)
