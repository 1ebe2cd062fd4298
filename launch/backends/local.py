"""This machine: a queue of run directories over warm worker processes, one a GPU slot, or a share
of the CPU's threads each.
"""

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from launch.backends import Watcher
from launch.backends.queue import Trials, by_processes, on_signals
from launch.errors import UsageError
from launch.gpus import visible_gpus
from launch.paths import ROOT
from launch.runs.job import Outcome


def slots(workers: int | None, trials_per_gpu: int, trials: int) -> list[dict[str, str]]:
    """The environment of each worker: its GPU, or its share of the CPU's threads.

    The share does not depend on how many trials are left: sums on a CPU depend on the number of
    threads, so a trial's bits would.
    """
    gpus = visible_gpus()
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    wanted = workers or (len(gpus) * trials_per_gpu or cores)
    count = max(1, min(wanted, trials))
    threads = str(max(1, cores // wanted))
    shared = {"RM_THREADS": threads, "OMP_NUM_THREADS": threads}
    if not gpus:
        return [{**shared, "CUDA_VISIBLE_DEVICES": ""} for _ in range(count)]
    return [{**shared, "CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)]} for i in range(count)]


def team_slots(processes: int, workers: int | None, trials: int) -> list[dict[str, str]]:
    """The same of trials that so many processes train together: each has so many GPUs, or its
    share of the threads.

    UsageError where this machine has fewer GPUs.
    """
    gpus = visible_gpus()
    if 0 < len(gpus) < processes:
        raise UsageError(
            f"there are trials that take {processes} GPUs each, and this machine has {len(gpus)}; "
            "--gpus N trains each on fewer, "
            "--backend slurm where there are more"
        )
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    fit = len(gpus) // processes or max(1, cores // processes)
    wanted = min(workers or fit, fit) if gpus else workers or fit
    threads = str(max(1, cores // (wanted * processes)))
    shared = {"RM_THREADS": threads, "OMP_NUM_THREADS": threads}
    return [
        {**shared, "CUDA_VISIBLE_DEVICES": ",".join(gpus[i * processes : (i + 1) * processes])}
        for i in range(max(1, min(wanted, trials)))
    ]


def run(
    run_dirs: Sequence[Path],
    watcher: Watcher,
    *,
    workers: int | None = None,
    trials_per_gpu: int = 1,
) -> dict[Path, Outcome]:
    """Run every directory; returns how each ended. Ctrl-C or SIGTERM once: checkpoint all and
    stop; twice: kill.

    Those that take several GPUs come first, and have them to themselves.
    """
    pools = [
        Pool(
            group,
            watcher,
            slots(workers, trials_per_gpu, len(group))
            if count == 1
            else team_slots(count, workers, len(group)),
        )
        for count, group in by_processes(run_dirs)
    ]

    def stop() -> None:
        for pool in pools:
            pool.stop()

    with on_signals(stop):
        return {run_dir: ended for pool in pools for run_dir, ended in pool.run().items()}


class _Worker:
    """One worker process in a session of its own (the terminal's Ctrl-C reaches the launcher
    only).
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = environment
        self.errors = tempfile.TemporaryFile("w+", prefix="rm-worker-")  # noqa: SIM115 closed by close()
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        self.process = subprocess.Popen(
            [sys.executable, "-m", "launch.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env={**os.environ, **environment, "PYTHONPATH": path},
            start_new_session=True,
        )
        self.buffer = b""
        self.run_dir: Path | None = None

    def fileno(self) -> int:
        return self.process.stdout.fileno() if self.process.stdout else -1

    def give(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        try:
            if self.process.stdin:
                self.process.stdin.write(f"{run_dir}\n".encode())
                self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it is dead; the end of its output says so as well

    def answers(self) -> Iterator[dict[str, Any] | None]:
        """What has come in; None at the end of its output."""
        data = os.read(self.fileno(), 65536)
        *lines, self.buffer = (self.buffer + data).split(b"\n")
        yield from (json.loads(line) for line in lines)
        if not data:
            yield None

    def close(self) -> str:
        """Wait for the process to end; returns how it did, with the end of its error output."""
        if self.process.stdin:
            self.process.stdin.close()
        code = self.process.wait()
        self.errors.seek(0)
        said = self.errors.read().strip().splitlines()[-3:]
        self.errors.close()
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        return " | ".join([f"its worker process ended with {how}", *said])


class Pool:
    def __init__(
        self, run_dirs: Sequence[Path], watcher: Watcher, environments: Sequence[Mapping[str, str]]
    ) -> None:
        self.trials = Trials(run_dirs, watcher)
        self.environments = environments
        self.workers: list[_Worker] = []
        self.selector = selectors.DefaultSelector()
        self.stops = 0

    def stop(self) -> None:
        """Called from a signal handler: ask the workers to checkpoint; the second time, kill
        them.
        """
        self.stops += 1
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.process.send_signal(signal.SIGTERM if self.stops == 1 else signal.SIGKILL)

    def run(self) -> dict[Path, Outcome]:
        try:
            for environment in self.environments:
                if not self.stops:
                    self._hire(environment)
            while self._unfinished():
                for key, _ in self.selector.select(timeout=1.0):
                    self._listen(key.data)
                self._look_elsewhere()
                self.trials.watcher.tick()
        finally:
            for worker in list(self.workers):
                if self._unfinished() and not self.stops:
                    worker.process.terminate()  # an error of ours: leave nothing running
                self._dismiss(worker)
            self.selector.close()
        return self.trials.close()

    def _unfinished(self) -> bool:
        working = any(worker.run_dir for worker in self.workers)
        return working or (not self.stops and self.trials.left)

    def _hire(self, environment: Mapping[str, str]) -> None:
        worker = _Worker(environment)
        self.workers.append(worker)
        self.selector.register(worker, selectors.EVENT_READ, worker)
        self._give_next(worker)

    def _dismiss(self, worker: _Worker) -> str:
        self.workers.remove(worker)
        self.selector.unregister(worker)
        return worker.close()

    def _give_next(self, worker: _Worker) -> None:
        worker.run_dir = None
        if self.trials.queue and not self.stops:
            worker.give(self.trials.queue.popleft())
            if worker.run_dir:
                self.trials.watcher.on_start(worker.run_dir)

    def _listen(self, worker: _Worker) -> None:
        for answer in worker.answers():
            run_dir = worker.run_dir
            if answer is None:
                self._bury(worker)
            elif run_dir:
                self.trials.answered(run_dir, answer)
                self._give_next(worker)

    def _bury(self, worker: _Worker) -> None:
        how, run_dir = self._dismiss(worker), worker.run_dir
        if run_dir is None and (self.stops or not self.trials.left):
            return  # an idle one, and nothing is left that could still need it
        if run_dir is not None:
            self.trials.died(run_dir, how, stopping=bool(self.stops))
        if not self.stops:
            time.sleep(0.2)  # a worker that cannot even start must not spin
            self._hire(worker.environment)

    def _look_elsewhere(self) -> None:
        self.trials.look_elsewhere()
        for worker in self.workers:
            if worker.run_dir is None:
                self._give_next(worker)
