"""Warm worker processes on this machine, fed with one run directory after another; those that die
are replaced.
"""

import json
import os
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
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


class WorkerProcess:
    """One worker process in a session of its own (the terminal's Ctrl-C reaches the launcher
    only).
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = environment
        # Closed by close().
        self.errors = tempfile.TemporaryFile("w+", prefix="rm-worker-")  # noqa: SIM115
        self.process = subprocess.Popen(
            module_command("launch.worker"),
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


class Pool:
    """A worker for each of the environments, over the trials of one group (see `Trials`)."""

    def __init__(
        self, trials: Trials, group: int, environments: Sequence[Mapping[str, str]]
    ) -> None:
        self.trials, self.group, self.environments = trials, group, environments
        self.workers: list[WorkerProcess] = []
        self.selector = selectors.DefaultSelector()
        self.stops = 0
        self.asked = float("inf")
        """When it was first asked to stop."""

    def stop(self) -> None:
        """Called from a signal handler too: ask the workers to checkpoint; the second time, kill
        them.
        """
        self.stops += 1
        self.asked = min(self.asked, time.monotonic())
        for worker in list(self.workers):
            if self.stops > 1:
                worker.kill()
            elif worker.process.poll() is None:
                worker.process.terminate()

    def run(self) -> None:
        """Until nothing of the group is left, or may start before another group has trained."""
        try:
            for environment in self.environments:
                if not self.stops:
                    self._spawn(environment)
            while self._is_open():
                for key, _ in self.selector.select(timeout=1.0):
                    self._receive(key.data)
                self._look_around()
        finally:
            for worker in list(self.workers):
                if self._is_open() and not self.stops:
                    worker.process.terminate()  # an error of ours: leave nothing running
                self._dismiss(worker)
            self.selector.close()

    def _is_open(self) -> bool:
        working = any(worker.run_dir for worker in self.workers)
        return working or (not self.stops and self.trials.is_open(self.group))

    def _spawn(self, environment: Mapping[str, str]) -> None:
        worker = WorkerProcess(environment)
        self.workers.append(worker)
        self.selector.register(worker, selectors.EVENT_READ, worker)
        self._assign(worker)

    def _dismiss(self, worker: WorkerProcess) -> str:
        self.selector.unregister(worker)
        how = worker.close()
        self.workers.remove(worker)  # only now: until it has ended, `stop` must reach it
        return how

    def _assign(self, worker: WorkerProcess) -> None:
        run_dir = None if self.stops else self.trials.take(self.group)
        if run_dir:
            worker.send(run_dir)
            self.trials.watcher.on_start(run_dir)

    def _receive(self, worker: WorkerProcess) -> None:
        for answer in worker.answers():
            run_dir, worker.run_dir = worker.run_dir, None
            if answer is None:
                self._on_death(worker, run_dir)
            elif run_dir:
                self.trials.answered(run_dir, answer)
                self._assign_all()

    def _assign_all(self) -> None:
        """What has ended may have been what others waited for."""
        for worker in self.workers:
            if worker.run_dir is None:
                self._assign(worker)

    def _on_death(self, worker: WorkerProcess, run_dir: Path | None) -> None:
        how = self._dismiss(worker)
        if run_dir is None and (self.stops or not self.trials.is_open(self.group)):
            return  # an idle one, and nothing is left that could still need it
        if run_dir is not None:
            self.trials.died(run_dir, how, stopping=bool(self.stops))
        if not self.stops:
            time.sleep(0.2)  # a worker that cannot even start must not spin
            self._spawn(worker.environment)

    def _look_around(self) -> None:
        if self.trials.stops() > self.stops or time.monotonic() - self.asked > STOP_SECONDS:
            self.stop()
        self.trials.poll_elsewhere()
        self._assign_all()
        self.trials.watcher.tick()
