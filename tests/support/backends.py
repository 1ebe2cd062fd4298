"""A backend behind the one command."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from launch.runs.rundir import RunDir
from tests.support import processes
from tests.support.trials import PATIENCE, ROOT, deterministic


class Backend:
    """`launch/run.py` with one backend, for the results folder of one test."""

    def __init__(self, name: str, results: Path, arguments: list[str]) -> None:
        self.name, self.results, self.arguments = name, results, arguments

    def start(
        self, *words: object, environment: dict[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """The command, not waited for."""
        return subprocess.Popen(
            [sys.executable, str(ROOT / "launch" / "run.py"), *map(str, words), *self.arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "CUDA_VISIBLE_DEVICES": "",
                "RM_RESULTS_DIR": str(self.results),
                **(environment or {}),
            },
        )

    def run(
        self, *words: object, environment: dict[str, str] | None = None
    ) -> tuple[int, str, str]:
        """Exit status, output, errors, once every trial has ended. A backend that submits waits
        for its jobs here.
        """
        process = self.start(*words, environment=environment)
        out, err = process.communicate(timeout=PATIENCE)
        return process.returncode, out, err

    def freeze(self, process: subprocess.Popen[str], trials: int) -> list[int]:
        """Stop (SIGSTOP) the workers of so many trials, each as soon as it has an epoch behind
        it: none ends meanwhile, however fast this machine is. Returns the processes.
        """
        frozen: dict[str, int] = {}

        def are_frozen() -> bool:
            for trial, pid in self.leased().items():
                if trial not in frozen and "epoch" in self.events(trial):
                    processes.freeze(pid)
                    frozen[trial] = pid
            return len(frozen) >= trials

        self.wait(are_frozen, process)
        assert not any("finished" in self.events(trial) for trial in frozen)
        return list(frozen.values())

    def interrupt(
        self, process: subprocess.Popen[str], frozen: Sequence[int] = ()
    ) -> tuple[int, str]:
        """Ask for a checkpoint and a stop, as a person would; returns exit status and errors once
        all have stopped.

        frozen   processes that go on once they have been told
        """
        process.send_signal(signal.SIGINT)
        # A signal tells them, but for Ray's actors, which hear of it within a second or two.
        deadline = time.monotonic() + (3 if self.name == "ray" else PATIENCE)
        while time.monotonic() < deadline and not all(
            processes.has_pending(pid, signal.SIGTERM) for pid in frozen
        ):
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        for pid in frozen:
            processes.thaw(pid)
        _, err = process.communicate(timeout=PATIENCE)
        return process.returncode, err

    def cores(self) -> int:
        """What one worker alone may use."""
        return 2 if self.name == "ray" else len(os.sched_getaffinity(0))

    def events(self, trial: str) -> list[str]:
        return [event["event"] for event in RunDir(self.results / "runs" / trial).events()[0]]

    def leased(self) -> dict[str, int]:
        """Trial -> process of its worker, for each that is at work."""
        found = {}
        for lease in (self.results / "runs").glob("*/lease.json"):
            try:
                found[lease.parent.name] = json.loads(lease.read_text())["pid"]
            except (OSError, ValueError):
                continue
        return found

    def wait(self, condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def wait_for_epochs(
        self,
        process: subprocess.Popen[str],
        trials: int,
        epochs: int = 2,
        *,
        checkpoint: bool = False,
    ) -> None:
        """Until so many trials are at work, each with so many epochs behind it, and perhaps a
        checkpoint.
        """

        def is_there(trial: str) -> bool:
            events = self.events(trial)
            return events.count("epoch") >= epochs and (not checkpoint or "checkpoint" in events)

        self.wait(lambda: sum(map(is_there, self.leased())) >= trials, process)

    def numbers(self) -> dict[str, list[dict[str, object]]]:
        """Trial -> what must be equal bit for bit, whatever ran it."""
        return {folder.name: deterministic(folder) for folder in (self.results / "runs").iterdir()}
