"""Backends: each module here runs the same worker on the same run directories and alone imports
its library.

A backend's module defines

    run(run_dirs, watcher, *, workers, trials_per_gpu, **settings) -> dict[Path, Outcome]

and, where it has options of its own, `add_arguments(group)` (argparse) and `settings(given) ->
dict` (checked; UsageError for what is wrong). One whose scheduler works on after the command has
ended also defines

    jobs(run_dirs, last) -> dict[Path, Job]  what the scheduler says of them, in one question;
    `last`: what jobs.jsonl ends with
    withdraw(run_dirs)                       take jobs that have not started out of its queue
    examine(*, submit, **settings)           yields a launch.checks.Check for each thing that
                                             `doctor` looks at

and writes `{"backend": name, "id": ..., "time": ...}` as a line of `jobs.jsonl` in each run
directory it submits. It keeps no other state: what is finished, failed or running is read from the
run directories. Libraries are imported inside functions, so that `--help` does not wait for them.
"""

from pathlib import Path
from typing import Protocol

from launch.runs.job import Outcome


class Watcher(Protocol):
    """What a backend tells while it runs; the calls come from one thread."""

    def on_start(self, run_dir: Path) -> None: ...

    def on_death(self, run_dir: Path, how: str) -> None:
        """Its worker process ended without an answer; another one takes over."""

    def on_end(self, run_dir: Path, outcome: Outcome) -> None: ...

    def tick(self) -> None:
        """Called about once a second."""
