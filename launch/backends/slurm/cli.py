"""SLURM's own commands, asked with a time limit, and what the cluster allows."""

import functools
import os
import re
import shutil
import subprocess
from collections.abc import Sequence

from launch.errors import UsageError

SECONDS = 30.0
"""How long a command may take; SLURM's own retries stay below that where the controller is
alive.
"""


class SlurmError(RuntimeError):
    """A SLURM command failed or did not answer; the message is what it printed."""


def ask(*words: str, seconds: float = SECONDS, inherit: Sequence[int] = ()) -> str:
    """What a SLURM command prints. Raises SlurmError where it fails, does not answer in time, or
    is not there.

    SLURM's variables of a job around us (people launch from interactive jobs) are not passed on:
    sbatch would obey them.

    inherit   open files that the command keeps open as long as it lives
    """
    around = {
        k: v
        for k, v in os.environ.items()
        if not k.startswith(("SLURM_", "SBATCH_")) or k == "SLURM_CONF"
    }
    try:
        done = subprocess.run(
            words,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            env=around,
            check=False,
            pass_fds=inherit,
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


def check_login_node(what: str) -> None:
    """UsageError where SLURM is not there, or does not answer."""
    if shutil.which("sbatch") is None:
        raise UsageError(
            f"sbatch is not on the PATH of this machine; {what} is for a cluster's login node"
        )
    try:
        configuration()
    except SlurmError as error:
        reason = str(error).splitlines()[-1]
        raise UsageError(
            f"{what}: SLURM does not answer on this machine, and nothing is submitted ({reason})"
        ) from error


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


def cluster_name() -> str | None:
    """Of the cluster that the commands talk to."""
    return configuration().get("ClusterName")


def has_accounting() -> bool:
    return (
        configuration().get("AccountingStorageType", "accounting_storage/none")
        != "accounting_storage/none"
    )


def fields(line: str) -> dict[str, str]:
    """scontrol's `Key=value Key=value ...`; the first of equal keys counts."""
    found: dict[str, str] = {}
    for key, value in re.findall(r"(\S+?)=(\S*)", line):
        found.setdefault(key, value)
    return found
