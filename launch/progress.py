"""What people see while trials run: live bars on a terminal, else a plain line at each end and
once a minute.
"""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, Task, TaskID, TextColumn
from rich.table import Column, Table

from launch.console import duration, say
from launch.runs import journal
from launch.runs.contents import Damaged
from launch.runs.job import Outcome
from launch.runs.journal import RECENT_EPOCHS, Event, number_of, seconds_left
from launch.runs.rundir import RunDir
from rm.metrics import METRICS

PLAIN_SECONDS = 60.0
MOST_NAMED = 8
"""Trials that a plain line tells of one by one."""

_COLUMNS = ("epoch", "step", "loss", "test", "left")
_EMPTY: dict[str, Any] = dict.fromkeys(_COLUMNS, "")


class _Bars(Progress):
    """A bar a trial, under a header."""

    def __init__(self, console: Console) -> None:
        label = Column(ratio=1, no_wrap=True, overflow="ellipsis")
        fields = (
            TextColumn(f"{{task.fields[{name}]}}", justify="right", markup=False)
            for name in _COLUMNS
        )
        super().__init__(
            TextColumn("{task.description}", markup=False, table_column=label),
            BarColumn(bar_width=10),
            *fields,
            console=console,
            expand=True,
        )

    def make_tasks_table(self, tasks: Iterable[Task]) -> Table:
        table = super().make_tasks_table(tasks)
        for column, name in zip(table.columns, ("", "", *_COLUMNS), strict=True):
            column.header = name
        table.show_header = True
        return table


class ProgressWatcher:
    """A backend's watcher: shows progress on standard error and remembers nothing that is not on
    disk.
    """

    def __init__(self, labels: dict[Path, str], epochs: dict[Path, int]) -> None:
        self.labels, self.epochs = labels, epochs
        self.console = Console(stderr=True, highlight=False)
        self.live = self.console.is_terminal
        self.bars = _Bars(self.console)
        self.total = self.bars.add_task("trials", total=len(labels), **_EMPTY)
        self.running: dict[Path, TaskID] = {}
        self.offsets: dict[Path, int] = {}
        self.recent: dict[Path, list[Event]] = {}
        """The last events of each that runs."""
        self.before: dict[Path, float] = {}
        """The share of each that was done before it came here."""
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
                f"  {self.labels[run_dir]}",
                total=self.epochs[run_dir] or None,
                **_EMPTY,
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
        self.recent.pop(run_dir, None)
        self._count()
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
            self.recent[run_dir] = [*self.recent.get(run_dir, []), *events][-4 * RECENT_EPOCHS :]
            self._show(run_dir, task)
        self._count()
        if not self.live and time.monotonic() - self.last_line >= PLAIN_SECONDS:
            self.last_line = time.monotonic()
            say(self.plain_line())

    def _show(self, run_dir: Path, task: TaskID) -> None:
        """How far it is, within its epoch too, where its worker has noted that."""
        events, epochs = self.recent[run_dir], self.epochs[run_dir]
        numbers = [number for event in events if (number := number_of(event)) is not None]
        done: float = numbers[-1] if numbers else 0
        fields: dict[str, Any] = {
            "epoch": f"{done}/{epochs}" if epochs else f"{done} points" if done else ""
        }
        left = seconds_left(events, epochs)
        now = journal.within(journal.position_of(run_dir), events)
        if now is not None and epochs:
            done = now.epoch - 1 + now.step / now.steps
            fields |= {"epoch": f"{now.epoch}/{epochs}", "step": f"{now.step}/{now.steps}"}
            fields["loss"] = "" if now.loss is None else f"{now.loss:.3f}"
            left = now.seconds_left(epochs) if left is None else left
        if (tested := journal.last_test(events)) is not None:
            metric = METRICS.get(tested[0].partition(".")[0])
            fields["test"] = f"{tested[1]:.4g} {metric.unit if metric else ''}".rstrip()
        fields["left"] = "" if left is None else duration(left)
        self.bars.update(task, completed=done, **fields)
        self.before.setdefault(run_dir, done / epochs if epochs else 0.0)

    def _count(self) -> None:
        """The line of all trials: those finished, and the time left at the pace so far."""
        tasks = {task.id: task for task in self.bars.tasks}
        parts = [
            task.completed / task.total
            for task in (tasks[each] for each in self.running.values())
            if task.total
        ]
        count, elapsed = int(tasks[self.total].total or 0), time.monotonic() - self.began
        done, left = self.done + sum(parts), ""
        gained = done - sum(self.before.values())
        if elapsed >= 10 and gained > 0 and done < count:
            left = duration(elapsed * (count - done) / gained)
        self.bars.update(self.total, completed=self.done, epoch=f"{self.done}/{count}", left=left)

    def plain_line(self) -> str:
        minutes = (time.monotonic() - self.began) / 60
        total, *tasks = self.bars.tasks
        parts = []
        for task in tasks[:MOST_NAMED]:
            shown = task.fields
            told = [f"epoch {shown['epoch']}" if task.total else shown["epoch"]]
            told += [f"{name} {shown[name]}" for name in ("step", "loss", "test") if shown[name]]
            told += [f"{shown['left']} left"] if shown["left"] else []
            reached = ", ".join(filter(None, told))
            parts.append(f"{task.description.strip()}: {reached}" if reached else task.description)
        if tasks[MOST_NAMED:]:
            parts.append(f"and {len(tasks) - MOST_NAMED} more")
        left = f", about {total.fields['left']} left" if total.fields["left"] else ""
        return (
            f"[{minutes:.0f} min] {self.done} of {total.total:.0f} trials finished{left}; "
            f"running: {'; '.join(parts) or 'none'}"
        )
