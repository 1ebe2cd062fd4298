"""sbatch, whose word is not enough: after any failure, and after any answer that is more than an
id, the job is looked up by its name, which nothing else has.
"""

import re
import time
from collections.abc import Sequence
from pathlib import Path

from launch.backends.slurm import cli, jobs
from launch.backends.slurm.cli import SlurmError

SUBMIT_SECONDS = 120.0
ATTEMPTS = 3

_MAY_COME_LATE = re.compile(
    r"time[d -]*out|did not answer|unable to contact|socket|connect|temporarily|exit status",
    re.IGNORECASE,
)
"""Errors (a death of sbatch without a word among them) after which SLURM may have the job soon;
any other is a refusal, unless SLURM has it all the same.
"""


class Refused(SlurmError):
    """SLURM does not have the job, and will not."""


def sbatch(script: Path, name: str, inherit: Sequence[int] = ()) -> str:
    """Submit once, whatever sbatch says; returns the id under which SLURM has the job.

    Raises Refused, or another SlurmError where it is not known whether SLURM took it.

    inherit   open files that sbatch keeps open, should it outlive this process
    """
    failure = SlurmError("sbatch was not tried")
    for attempt in range(ATTEMPTS):
        words = ("sbatch", "--parsable", str(script))
        try:
            answer = cli.ask(*words, seconds=SUBMIT_SECONDS, inherit=inherit)
        except SlurmError as error:
            late = _MAY_COME_LATE.search(str(error))
            time.sleep(2.0 * (attempt + 1) if late else 0.0)
            if identity := find(name):
                return identity
            if not late:
                raise Refused(str(error)) from error
            failure = error
            continue
        said = _identity(answer)
        # An earlier attempt may have gone through since it was looked up.
        found = find(name) if attempt or said is None else said
        if found or said:
            return found or said or ""
        raise Refused(f"sbatch answered '{answer.strip()}', and no job is called {name}")
    raise failure


def find(name: str) -> str | None:
    """The id of the job of this name, None where there is none; later doubles are withdrawn."""
    ids = jobs.by_name(name)
    for double in ids[1:]:
        jobs.cancel_array(double, name)
    return ids[0] if ids else None


def _identity(answer: str) -> str | None:
    """None where there is anything beside it: sites print notices, which may be numbers."""
    only = re.fullmatch(r"(\d+)(;\S+)?", answer.strip())
    return only[1] if only else None
