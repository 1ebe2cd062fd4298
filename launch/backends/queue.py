"""What the backends that keep workers have in common: which trials are left, which another
launcher has, and how they ended.
"""

import signal
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from launch.backends.base import Watcher
from launch.runs.job import Outcome
from launch.runs.resources import wanted
from launch.runs.rundir import RunDir

MOST_DEATHS = 3
"""A trial whose worker dies this often without an answer is failed instead of being given to
another worker.
"""


class Trials:
    """The run directories of one command, from the queue to their ends."""

    def __init__(self, run_dirs: Sequence[Path], watcher: Watcher) -> None:
        self.queue = deque(run_dirs)
        self.elsewhere: list[Path] = []
        """Under another launcher's lease: done when it is done, ours when it let go."""
        self.watcher = watcher
        self.deaths: dict[Path, int] = {}
        self.ended: dict[Path, Outcome] = {}

    @property
    def left(self) -> bool:
        """Whether something still needs a worker, or may need one."""
        return bool(self.queue or self.elsewhere)

    def answered(self, run_dir: Path, answer: Mapping[str, Any]) -> None:
        """What `launch.worker.run_one` returned."""
        if answer["outcome"] == "busy":
            self.elsewhere.append(run_dir)
        else:
            self.end(run_dir, Outcome(answer["outcome"], answer["error"]))

    def died(self, run_dir: Path, how: str, *, stopping: bool, count_death: bool = True) -> None:
        """Its worker ended without an answer: it goes to another one, unless workers keep dying of
        it.

        count_death   false where the trial cannot have been the cause, as when a machine is gone
        """
        self.deaths[run_dir] = self.deaths.get(run_dir, 0) + count_death
        if stopping:
            self.end(run_dir, Outcome("interrupted", how))
        elif self.deaths[run_dir] >= MOST_DEATHS:
            self.end(
                run_dir,
                Outcome("failed", f"{how}, {MOST_DEATHS} times; see {run_dir / 'log.txt'}"),
            )
        else:
            self.watcher.on_death(run_dir, how)
            self.queue.appendleft(run_dir)

    def poll_elsewhere(self) -> None:
        """See what became of the run directories that another launcher works on."""
        for run_dir in list(self.elsewhere):
            state = RunDir(run_dir).state()
            if state == "running":
                continue
            self.elsewhere.remove(run_dir)
            if state == "finished":
                self.end(run_dir, Outcome("finished", None))
            else:
                self.queue.append(run_dir)

    def end(self, run_dir: Path, ended: Outcome) -> None:
        self.ended[run_dir] = ended
        self.watcher.on_end(run_dir, ended)

    def close(self) -> dict[Path, Outcome]:
        """How each ended, once no worker works any more."""
        for run_dir in (*self.queue, *self.elsewhere):
            self.end(run_dir, Outcome("interrupted", "not started"))
        return self.ended


def by_processes(run_dirs: Sequence[Path]) -> list[tuple[int, list[Path]]]:
    """The run directories by how many processes train each, most first."""
    groups: dict[int, list[Path]] = {}
    for run_dir in run_dirs:
        groups.setdefault(wanted(run_dir).processes, []).append(run_dir)
    return sorted(groups.items(), reverse=True)


@contextmanager
def on_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` at each Ctrl-C, SIGTERM or hangup (one that nohup ignores stays ignored) while
    the block runs.
    """
    wanted = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handled = [number for number in wanted if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, lambda number, frame: stop()) for number in handled}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
