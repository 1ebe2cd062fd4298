"""What the backends that keep workers have in common: which trials are left, which may start,
which another launcher has, and how they ended.
"""

import heapq
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from launch.backends.base import Watcher
from launch.backends.deadline import Deadline
from launch.runs import rundir
from launch.runs.job import Outcome
from launch.runs.resources import wanted
from launch.runs.rundir import RunDir

MOST_DEATHS = 3
"""A trial whose worker dies this often without an answer, and without a new checkpoint in between,
is failed instead of being given to another worker.
"""


class Trials:
    """The run directories of one command, from the queue to their ends.

    In the order given, but for those whose parents are not finished: these start when the last
    parent has, and never where one failed. Trials that so many processes share are a group; the
    pool of a group takes them one by one.
    """

    def __init__(
        self, run_dirs: Sequence[Path], watcher: Watcher, deadline: Deadline | None = None
    ) -> None:
        self.watcher, self.deadline = watcher, deadline
        self.place = {run_dir: number for number, run_dir in enumerate(run_dirs)}
        self.group = {run_dir: wanted(run_dir).processes for run_dir in run_dirs}
        self.ready: dict[int, list[tuple[int, Path]]] = {
            count: [] for count in sorted(set(self.group.values()), reverse=True)
        }
        """By group, heaps of what may start."""
        self.waiting: dict[Path, set[Path]] = {}
        """What may not, with its unfinished parents."""
        self.children: dict[Path, list[Path]] = {}
        self.elsewhere: set[Path] = set()
        """Under another launcher's lease: done when it is done, ours when it let go. Parents that
        are not of this command too.
        """
        self.told: dict[Path, str] = {}
        """Of each that is, what was said of its holder."""
        self.deaths: dict[Path, int] = {}
        """Since its last progress, which is `reached`."""
        self.reached: dict[Path, list[int]] = {}
        self.ended: dict[Path, Outcome] = {}
        for run_dir in run_dirs:
            for parent in parents_of(run_dir):
                self.children.setdefault(parent, []).append(run_dir)
                self.waiting.setdefault(run_dir, set()).add(parent)
        for run_dir in run_dirs:
            if run_dir not in self.waiting:
                self._push(run_dir)
        self.elsewhere |= self.children.keys() - self.place.keys()
        self.poll_elsewhere()

    def _push(self, run_dir: Path) -> None:
        heapq.heappush(self.ready[self.group[run_dir]], (self.place[run_dir], run_dir))

    def take(self, group: int) -> Path | None:
        """The next one to start, or None."""
        heap = self.ready[group]
        return heapq.heappop(heap)[1] if heap and self._may_start() else None

    def _may_start(self) -> bool:
        return self.deadline is None or self.deadline.allows_start()

    @property
    def left(self) -> bool:
        """Whether something still needs a worker, or may need one."""
        open_ = len(self.ended) < len(self.place)
        return open_ and self._may_start()

    def startable(self, group: int) -> int:
        """How many of the group need a worker now, or may soon: others' may come back."""
        members = (run_dir for run_dir in self.elsewhere if self.group.get(run_dir) == group)
        return (len(self.ready[group]) + sum(1 for _ in members)) * self._may_start()

    def is_open(self, group: int) -> bool:
        """Whether the pool of this group should stay. Where nothing may start yet, it does as long
        as something of its group is left; where something of another group may, it gives way.
        """
        if not self.left:
            return False
        if self.ready[group] or any(self.ready.values()):
            return bool(self.ready[group])
        return any(
            self.group.get(run_dir) == group for run_dir in (*self.elsewhere, *self.waiting)
        )

    def stops(self) -> int:
        """As many Ctrl-C as the deadline stands for by now."""
        return self.deadline.stops() if self.deadline else 0

    def answered(self, run_dir: Path, answer: Mapping[str, Any]) -> None:
        """What `launch.worker.run_one` returned."""
        if answer["outcome"] == "busy":
            self.elsewhere.add(run_dir)
            if self.told.get(run_dir) != answer["error"]:
                self.told[run_dir] = answer["error"]
                self.watcher.on_wait(run_dir, answer["error"])
        else:
            self.end(run_dir, Outcome(answer["outcome"], answer["error"]))

    def died(self, run_dir: Path, how: str, *, stopping: bool, count_death: bool = True) -> None:
        """Its worker ended without an answer: it goes to another one, unless workers keep dying of
        it.

        count_death   false where the trial cannot have been the cause, as when a machine is gone
        """
        if (now := RunDir(run_dir).position()) != self.reached.get(run_dir):
            self.reached[run_dir], self.deaths[run_dir] = now, 0
        self.deaths[run_dir] += count_death
        if stopping:
            self.end(run_dir, Outcome("interrupted", how))
        elif self.deaths[run_dir] >= MOST_DEATHS:
            self.end(
                run_dir,
                Outcome(
                    "failed",
                    f"{how}, {MOST_DEATHS} times without progress; see {run_dir / rundir.LOG}",
                ),
            )
        else:
            self.watcher.on_death(run_dir, how)
            self._push(run_dir)

    def poll_elsewhere(self) -> None:
        """See what became of the run directories that another launcher works on."""
        for run_dir in sorted(self.elsewhere):
            state = RunDir(run_dir).state()
            if state == "running":
                continue
            self.elsewhere.remove(run_dir)
            if run_dir not in self.place:  # a parent that somebody else was asked to train
                trained = state == "finished"
                self._release(run_dir, Outcome("finished" if trained else "failed", None))
            elif state == "finished":
                self.end(run_dir, Outcome("finished", None))
            elif state == "damaged":
                self.end(run_dir, Outcome("failed", RunDir(run_dir).damage()))
            else:
                self._push(run_dir)

    def end(self, run_dir: Path, outcome: Outcome) -> None:
        self.ended[run_dir] = outcome
        self.watcher.on_end(run_dir, outcome)
        self._release(run_dir, outcome)

    def _release(self, parent: Path, outcome: Outcome) -> None:
        """Let the children of what has ended start, or end them as well."""
        for child in self.children.get(parent, ()):
            if child in self.ended:
                continue
            if outcome.status == "finished":
                self.waiting[child].discard(parent)
                if not self.waiting[child]:
                    del self.waiting[child]
                    self._push(child)
            elif outcome.status in ("failed", "blocked"):
                self._block(child, f"it starts from trial {parent.name}, which is not trained")
            elif outcome.error == rundir.CANCELLED:
                self._block(child, f"it starts from trial {parent.name}, which was cancelled")

    def _block(self, run_dir: Path, why: str) -> None:
        del self.waiting[run_dir]
        self.end(run_dir, Outcome("blocked", why))

    def close(self) -> dict[Path, Outcome]:
        """How each ended, once no worker works any more."""
        for run_dir in self.place:
            if run_dir not in self.ended:
                self.end(run_dir, Outcome("interrupted", "not started"))
        return self.ended


def parents_of(run_dir: Path) -> tuple[Path, ...]:
    """The run directories of the trials whose weights it starts from."""
    try:
        return RunDir(run_dir).parents
    except (OSError, ValueError, AttributeError):
        return ()  # not a readable trial; its own run says so


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
