"""Backends: each module here runs the same worker on the same run directories and alone imports its library.

A backend's module defines `run(run_dirs, watcher, *, workers, trials_per_gpu) -> dict[Path, Ended]`. It keeps no state
of its own: what is finished, failed or running is read from the run directories.
"""

from pathlib import Path
from typing import Literal, NamedTuple, Protocol

Outcome = Literal["finished", "failed", "interrupted"]


class Ended(NamedTuple):
    """How one run directory ended, and the error's text where it failed."""

    outcome: Outcome
    error: str | None


class Watcher(Protocol):
    """What a backend tells while it runs; the calls come from one thread."""

    def started(self, run_dir: Path) -> None: ...

    def died(self, run_dir: Path, how: str) -> None:
        """Its worker process ended without an answer; another one takes over."""

    def ended(self, run_dir: Path, ended: Ended) -> None: ...

    def tick(self) -> None:
        """Called about once a second."""
