"""How a run directory's work ended, and what a scheduler says of a job that is to do it."""

from typing import Literal, NamedTuple

Status = Literal[
    "finished", "failed", "interrupted", "submitted", "queued", "unsubmitted", "blocked"
]
"""queued: a scheduler had it already; unsubmitted: the scheduler did not take it, or not yet."""


class Outcome(NamedTuple):
    """How one run directory ended (or that it went to a scheduler), and the error's text where it
    failed.
    """

    status: Status
    error: str | None


class Job(NamedTuple):
    """What a scheduler says of the newest job of a run directory; `unknown` where it cannot be
    asked.
    """

    id: str
    state: Literal["pending", "running", "gone", "unknown"]
    where: str
    """Its node, or why it waits."""
    hint: str = ""
    """What to do where it waits in vain."""
