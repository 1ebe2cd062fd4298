"""Warm worker processes on this machine, fed with one run directory after another; those that die
are replaced.
"""

import itertools
import json
import os
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.backends.queue import Trials
from launch.interpreter import child_environment, module_command

CLOSE_SECONDS = 15.0
"""An idle worker ends as soon as its input does; one that has not by then is killed."""
STOP_SECONDS = 300.0
"""So long a worker may take to its next step and its checkpoint; then it is killed, and its trial
resumes from the checkpoint before.
"""

REST_SECONDS = 0.2
"""A slot whose worker died stays empty for so long: one that cannot even start must not spin."""

TICK_SECONDS = 0.2
"""Progress is read no more often than that, however fast trials end."""


class WorkerProcess:
    """One worker process in a session of its own (the terminal's Ctrl-C reaches the launcher
    only).
    """

    module = "launch.worker"

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = environment
        # Closed by close().
        self.errors = tempfile.TemporaryFile("w+", prefix="rm-worker-")  # noqa: SIM115
        self.process = subprocess.Popen(
            module_command(self.module),
            bufsize=0,  # what is held back for a dead worker would be written when it is closed
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env=child_environment(environment),
            start_new_session=True,
        )
        self.buffer = b""
        self.run_dir: Path | None = None

    def fileno(self) -> int:
        return self.process.stdout.fileno() if self.process.stdout else -1

    def send(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        # Where it is dead, the end of its output says so as well.
        with suppress(BrokenPipeError):
            if self.process.stdin:
                self.process.stdin.write(f"{run_dir}\n".encode())

    def answers(self) -> Iterator[dict[str, Any] | None]:
        """What has come in; None at the end of its output."""
        data = os.read(self.fileno(), 65536)
        *lines, self.buffer = (self.buffer + data).split(b"\n")
        yield from (json.loads(line) for line in lines)
        if not data:
            yield None

    def kill(self) -> None:
        """At once, with whatever it has started: they share its session."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def close(self) -> str:
        """End the process; returns how it did, with the end of its error output. Takes no longer
        than CLOSE_SECONDS, and the kernel's time to kill it.
        """
        if self.process.stdin:
            self.process.stdin.close()
        code = self._wait()
        if code is None:
            self.kill()
            code = self._wait()
        self.errors.seek(0)
        last_lines = self.errors.read().strip().splitlines()[-3:]
        self.errors.close()
        if code is None:
            how = "SIGKILL, and has not gone yet: it waits for a disk"
        else:
            how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        return " | ".join([f"its worker process ended with {how}", *last_lines])

    def _wait(self) -> int | None:
        try:
            return self.process.wait(CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            return None


@dataclass(frozen=True, eq=False)
class Slot:
    """Where one trial at a time may run.

    group         how many processes train each trial of it
    environment   of its worker
    takes         its GPUs; slots of different groups that share one never work together
    """

    group: int
    environment: Mapping[str, str]
    takes: frozenset[str] = frozenset()


def choose(slots: Sequence[Slot], busy: Sequence[Slot], ready: Mapping[int, int]) -> list[Slot]:
    """The slots in which to start something: those of most processes first. GPUs that they still
    lack come free for them, and are not given to smaller trials meanwhile.

    slots   in that order
    ready   group -> how many of its trials may start
    """
    chosen: list[Slot] = []
    kept: set[str] = set()
    """GPUs that larger trials wait for."""
    for group, members in itertools.groupby(slots, key=lambda slot: slot.group):
        if not (count := ready.get(group, 0)):
            continue
        others = {gpu for slot in (*busy, *chosen) if slot.group != group for gpu in slot.takes}
        free = [slot for slot in members if slot not in busy and not slot.takes & kept]
        now = [slot for slot in free if not slot.takes & others][:count]
        later = [slot for slot in free if slot not in now]
        later.sort(key=lambda slot: len(slot.takes & others))
        chosen += now
        kept |= {gpu for slot in later[: count - len(now)] for gpu in slot.takes}
    return chosen


class Pool:
    """Workers for slots, over the trials of their groups (see `Trials`). A worker starts when
    there is a first trial for its slot, and ends when a slot of another group needs its GPUs.
    """

    def __init__(
        self,
        trials: Trials,
        slots: Sequence[Slot],
        most: int | None = None,
        process: type[WorkerProcess] = WorkerProcess,
    ) -> None:
        """most   so many trials at a time, however many slots there are"""
        self.trials, self.most, self.process = trials, most or len(slots), process
        self.slots = sorted(slots, key=lambda slot: -slot.group)
        self.workers: dict[Slot, WorkerProcess] = {}
        self.resting: dict[Slot, float] = {}
        """Slots whose worker died, and until when they stay empty."""
        self.selector = selectors.DefaultSelector()
        self.stops = 0
        self.asked = float("inf")
        """When it was first asked to stop."""
        self.ticked = float("-inf")

    def stop(self) -> None:
        """Called from a signal handler too: ask the workers to checkpoint; the second time, kill
        them.
        """
        self.stops += 1
        self.asked = min(self.asked, time.monotonic())
        for worker in list(self.workers.values()):
            if self.stops > 1:
                worker.kill()
            elif worker.process.poll() is None:
                worker.process.terminate()

    def run(self) -> None:
        """Until nothing is left that may start here."""
        try:
            self._fill()
            while self._is_open():
                for key, _ in self.selector.select(REST_SECONDS if self.resting else 1.0):
                    self._receive(key.data)
                self._look_around()
        finally:
            for slot, worker in list(self.workers.items()):
                if self._is_open() and not self.stops:
                    worker.process.terminate()  # an error of ours: leave nothing running
                self._dismiss(slot)
            self.selector.close()

    def _is_open(self) -> bool:
        return bool(self._busy()) or (not self.stops and self.trials.left)

    def _busy(self) -> list[Slot]:
        return [slot for slot, worker in self.workers.items() if worker.run_dir]

    def _fill(self) -> None:
        """Give out what may start."""
        now = time.monotonic()
        self.resting = {slot: until for slot, until in self.resting.items() if until > now}
        busy = self._busy()
        ready = {group: len(heap) for group, heap in self.trials.ready.items()}
        free = [slot for slot in self.slots if slot not in self.resting]
        for slot in choose(free, busy, ready)[: max(0, self.most - len(busy))]:
            self._start(slot)

    def _start(self, slot: Slot) -> None:
        """Send the group's next trial to the slot's worker, unless nothing may start any more."""
        run_dir = None if self.stops else self.trials.take(slot.group)
        if run_dir is None:
            return
        for other in [s for s in self.workers if s.group != slot.group and s.takes & slot.takes]:
            self._dismiss(other)  # an idle one would keep its GPU's memory
        if slot not in self.workers:
            worker = self.workers[slot] = self.process(slot.environment)
            self.selector.register(worker, selectors.EVENT_READ, slot)
        self.workers[slot].send(run_dir)
        self.trials.watcher.on_start(run_dir)
        if self.stops:  # a signal came meanwhile
            self.workers[slot].process.terminate()

    def _dismiss(self, slot: Slot) -> str:
        worker = self.workers[slot]
        self.selector.unregister(worker)
        how = worker.close()
        del self.workers[slot]  # only now: until it has ended, `stop` must reach it
        return how

    def _receive(self, slot: Slot) -> None:
        worker = self.workers.get(slot)
        if worker is None:  # dismissed in this same round
            return
        for answer in worker.answers():
            run_dir, worker.run_dir = worker.run_dir, None
            if answer is None:
                self._on_death(slot, run_dir)
            elif run_dir:
                self.trials.answered(run_dir, answer)
                self._fill()

    def _on_death(self, slot: Slot, run_dir: Path | None) -> None:
        self.resting[slot] = time.monotonic() + REST_SECONDS
        how = self._dismiss(slot)
        if run_dir is not None:
            self.trials.died(run_dir, how, stopping=bool(self.stops))

    def _look_around(self) -> None:
        if self.trials.stops() > self.stops or time.monotonic() - self.asked > STOP_SECONDS:
            self.stop()
        self.trials.poll_elsewhere()
        self._fill()
        if (now := time.monotonic()) - self.ticked >= TICK_SECONDS:
            self.ticked = now
            self.trials.watcher.tick()
