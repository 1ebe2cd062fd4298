"""What people see while trials run: live bars on a terminal, else a plain line at each end and
once a minute.
"""

import time
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from launch.console import say
from launch.runs.contents import Damaged
from launch.runs.job import Outcome
from launch.runs.journal import number_of
from launch.runs.rundir import RunDir

PLAIN_SECONDS = 60.0


class ProgressWatcher:
    """A backend's watcher: shows progress on standard error and remembers nothing that is not on
    disk.
    """

    def __init__(self, labels: dict[Path, str], epochs: dict[Path, int]) -> None:
        self.labels, self.epochs = labels, epochs
        self.console = Console(stderr=True, highlight=False)
        self.live = self.console.is_terminal
        self.bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
        )
        self.total = self.bars.add_task("trials", total=len(labels))
        self.running: dict[Path, TaskID] = {}
        self.offsets: dict[Path, int] = {}
        self.begun: dict[Path, None] = {}
        """All that were started here, in that order."""
        self.over: set[Path] = set()
        self.done = 0
        self.last_line = self.began = time.monotonic()

    def __enter__(self) -> "ProgressWatcher":
        if self.live:
            self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop() if self.live else None

    def on_start(self, run_dir: Path) -> None:
        self.begun[run_dir] = None
        self.over.discard(run_dir)
        if run_dir not in self.running:
            self.running[run_dir] = self.bars.add_task(
                f"  {self.labels[run_dir]}", total=self.epochs[run_dir] or None
            )

    def on_death(self, run_dir: Path, how: str) -> None:
        memory = (
            " (killed by the system, if memory ran out: try fewer --workers)"
            if "SIGKILL" in how
            else ""
        )
        self.print_line(f"{self.labels[run_dir]}: {how}{memory}; retrying on another worker")

    def on_wait(self, run_dir: Path, for_whom: str) -> None:
        self.print_line(f"{self.labels[run_dir]}: waiting: {for_whom}")

    def on_end(self, run_dir: Path, outcome: Outcome) -> None:
        self.over.add(run_dir)
        if run_dir in self.running:
            self.bars.remove_task(self.running.pop(run_dir))
        self.done += outcome.status == "finished"
        self.bars.update(self.total, completed=self.done)
        if outcome.status in ("failed", "interrupted", "blocked", "unsubmitted"):
            self.print_line(f"{self.labels[run_dir]}: {outcome.status}: {outcome.error}")

    def print_line(self, text: str) -> None:
        if self.live:
            self.console.print(text, markup=False, soft_wrap=True)
        else:
            say(text)

    def tick(self) -> None:
        for run_dir, task in self.running.items():
            try:
                found = RunDir(run_dir).events(self.offsets.get(run_dir, 0))
            except (OSError, Damaged):
                continue  # its worker stumbles over it as well, and says so
            events, self.offsets[run_dir] = found
            numbers = [number for event in events if (number := number_of(event)) is not None]
            if numbers:
                self.bars.update(task, completed=numbers[-1])
        if not self.live and time.monotonic() - self.last_line >= PLAIN_SECONDS:
            self.last_line = time.monotonic()
            say(self._plain_line())

    def _plain_line(self) -> str:
        minutes = (time.monotonic() - self.began) / 60
        parts = []
        for task in self.bars.tasks[1:]:
            done = int(task.completed)
            if task.total:
                reached = f" epoch {done}/{task.total}"
            else:  # what is measured only has no epochs
                reached = f" point {done}" if done else ""
            parts.append(f"{task.description.strip()}{reached}")
        return (
            f"[{minutes:.0f} min] {self.done} of {len(self.labels)} trials finished; running: "
            f"{'; '.join(parts) or 'none'}"
        )
