"""What a backend is, and what it may tell whoever started it."""

import argparse
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, Self

from launch.runs.job import Job, Outcome

if TYPE_CHECKING:
    from launch.backends.checks import Check
    from launch.backends.deadline import Deadline


class Watcher(Protocol):
    """What a backend tells while it runs; the calls come from one thread."""

    def on_start(self, run_dir: Path) -> None: ...

    def on_death(self, run_dir: Path, how: str) -> None:
        """Its worker process ended without an answer; another one takes over."""

    def on_wait(self, run_dir: Path, for_whom: str) -> None:
        """Somebody else works on it; called once for each such holder of its lease."""

    def on_end(self, run_dir: Path, outcome: Outcome) -> None: ...

    def tick(self) -> None:
        """Called about once a second."""


class Limits(NamedTuple):
    """How many trials run at a time, and until when."""

    workers: int | None = None
    """None: one a GPU slot, or one a CPU core."""
    trials_per_gpu: int = 1
    deadline: "Deadline | None" = None


class Backend(ABC):
    """Runs run directories. It keeps no state of its own: what is finished, failed or running is
    read from the run directories.

    An instance holds the settings that the command line gave. Libraries are imported inside
    functions, so that `--help` does not wait for them.
    """

    name: ClassVar[str]
    has_scheduler: ClassVar[bool] = False
    """Jobs live on in a queue after the command has ended. Such a backend writes `{"backend":
    name, "id": ..., "time": ...}` as a line of jobs.jsonl in each run directory it submits.
    """
    can_search: bool = False
    """It can carry out a search, on the Ray cluster at `address` (None: a private one)."""
    address: str | None = None
    keeps_deadlines: bool = False
    """It stays until all has ended, and so can stop it in time."""

    @property
    def runs_here(self) -> bool:
        """Whether trials see this machine's files, those in $RM_DATA_DIR for example."""
        return not self.has_scheduler

    @classmethod
    def add_arguments(cls, group: argparse._ArgumentGroup) -> None:
        """Its own options of the command line; most have none."""
        return

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> Self:
        """With the settings that its options say, checked; UsageError for what is wrong."""
        return cls()

    def check(self, limits: Limits) -> None:
        """UsageError where this machine cannot run anything so; asked before anything is made."""
        return

    @abstractmethod
    def run(
        self, run_dirs: Sequence[Path], watcher: Watcher, limits: Limits
    ) -> dict[Path, Outcome]:
        """Run every directory; returns how each ended, or that it was submitted."""

    @classmethod
    def jobs(
        cls, run_dirs: Iterable[Path], last: Mapping[Path, Mapping[str, Any]] | None = None
    ) -> dict[Path, Job]:
        """What its scheduler says of the newest job of each, in one question.

        last   what jobs.jsonl ends with, where that was read already
        """
        return {}

    @classmethod
    def withdraw(cls, run_dirs: Sequence[Path]) -> None:
        """Take jobs that have not started out of its scheduler's queue, where it has one."""
        return

    def diagnose(self, *, submit: bool) -> Iterator["Check"]:
        """What `doctor` looks at; with `submit`, also by a job."""
        yield from ()


DEADLINE_STATUS = 75
"""Exit status of a command that stopped at its deadline with something left."""


def exit_status(ended: Mapping[Path, Outcome], limits: Limits) -> int:
    """0 all finished or submitted, 1 something failed, was blocked or not taken by the scheduler,
    75 stopped at the deadline, 130 stopped by a signal.
    """
    statuses = {outcome.status for outcome in ended.values()}
    if statuses & {"failed", "blocked", "unsubmitted"}:
        return 1
    if "interrupted" in statuses:
        return DEADLINE_STATUS if limits.deadline and limits.deadline.is_over() else 130
    return 0
