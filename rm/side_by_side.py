"""Several trials side by side on one device, each a process of `rm.train`, as many as the time
allows.
"""

import itertools
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from rm.rundir.journal import read

ROOT = Path(__file__).resolve().parents[1]
INTERRUPTED = 75
TICK_SECONDS = 0.5
LINE_SECONDS = 30.0
MOST_DEATHS = 2
"""A trial whose process is killed from outside this often is left for another day."""


@dataclass
class Entry:
    """One trial of the queue: what it is, its process while it runs, and how it went."""

    id: str
    label: str
    run_dir: Path
    epochs: int
    kind: str
    """Trials of one kind take the same time an epoch, near enough: same network, data, batch."""
    process: "subprocess.Popen[bytes] | None" = None
    since: float = 0.0
    """Epochs that ended after this time (seconds since 1970) measure the present pace."""
    deaths: int = 0
    outcome: str = "waiting"
    stopping: bool = field(default=False, repr=False)

    def done(self) -> int:
        """Epochs behind it."""
        return max((event["epoch"] for event in self._epochs()), default=0)

    def pace(self) -> float | None:
        """Seconds an epoch, evaluation included, from at least two epochs that ended lately."""
        times = [event["time"] for event in self._epochs() if event["time"] > self.since]
        gaps = [late - early for early, late in itertools.pairwise(times)]
        return median(gaps[-5:]) if len(gaps) >= 2 else None

    def _epochs(self) -> list[dict[str, Any]]:
        return [
            event for event in read(self.run_dir / "journal.jsonl") if event["event"] == "epoch"
        ]


class Runner:
    """Keeps up to `slots` trials training until all are finished or the time is up.

    seconds   until everything must have stopped
    later     seconds that later calls will have for what is left: infinite where the folder stays,
              0 where it does not
    margin    seconds before the end at which trials are told to checkpoint
    """

    def __init__(
        self,
        entries: list[Entry],
        slots: int,
        *,
        seconds: float,
        later: float,
        margin: float,
        device: str,
    ) -> None:
        self.entries, self.slots, self.device = entries, slots, device
        self.end = time.monotonic() + seconds
        self.later, self.margin = later, margin
        self.stopped = False
        self.paces: dict[str, float] = {}
        self.last_line = time.monotonic()

    def stop(self, *_: object) -> None:
        """A signal handler: checkpoint all, start no more."""
        self.stopped = True

    @property
    def running(self) -> list[Entry]:
        return [entry for entry in self.entries if entry.process is not None]

    def run(self) -> None:
        """Returns when nothing is running any more."""
        try:
            while not self.stopped and time.monotonic() < self.end - self.margin:
                self._reap()
                self._measure()
                self._shed()
                self._fill()
                if not self.running:
                    return
                self._report()
                time.sleep(TICK_SECONDS)
        finally:
            self._stop_all()

    def _left(self) -> float:
        return self.end - self.margin - time.monotonic() + self.later

    def _measure(self) -> None:
        for entry in self.running:
            pace = entry.pace()
            if pace is not None:
                self.paces[entry.kind] = pace

    def _shed(self) -> None:
        """Where the first trial would not be done in time with so many beside it, the last one is
        stopped for its sake.
        """
        running = [entry for entry in self.running if not entry.stopping]
        paces = [entry.pace() for entry in running]
        if len(running) < 2 or len(running) < len(self.running) or None in paces:
            return
        first, pace = running[0], paces[0] or 0.0
        if pace * (first.epochs - first.done()) > self._left():
            self.slots = len(running) - 1
            say(
                f"{first.label} takes too long with {self.slots} beside it: {running[-1].label} "
                "is stopped, with a checkpoint"
            )
            running[-1].stopping = True
            self._signal(running[-1], signal.SIGTERM)
            for entry in running:
                entry.since = time.time()

    def _fill(self) -> None:
        """Start what comes next and fits."""
        for entry in self.entries:
            if len(self.running) >= self.slots:
                return
            if (
                entry.outcome in ("waiting", "interrupted")
                and entry.process is None
                and self._fits(entry)
            ):
                self._start(entry)

    def _fits(self, entry: Entry) -> bool:
        pace = self.paces.get(entry.kind)
        return pace is None or pace * (entry.epochs - entry.done()) <= self._left()

    def _start(self, entry: Entry) -> None:
        command = [
            sys.executable,
            "-m",
            "rm.train",
            str(entry.run_dir / "trial.json"),
            str(entry.run_dir),
        ]
        threads = str(max(1, (os.cpu_count() or 1) // self.slots))
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        with (entry.run_dir / "log.txt").open("ab") as log:
            entry.process = subprocess.Popen(
                [*command, "--device", self.device],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": threads},
                start_new_session=True,  # the terminal's Ctrl-C is for this process, which passes it on
            )
        entry.since, entry.stopping = time.time(), False
        say(f"started {entry.label}, at epoch {entry.done()} of {entry.epochs}")

    def _reap(self) -> None:
        for entry in self.running:
            code = entry.process.poll() if entry.process else None
            if code is not None:
                self._ended(entry, code)

    def _ended(self, entry: Entry, code: int) -> None:
        entry.process = None
        entry.deaths += code < 0 and not entry.stopping
        if (entry.run_dir / "result.json").exists():
            entry.outcome = "finished"
        elif entry.stopping or code == INTERRUPTED or (code < 0 and entry.deaths < MOST_DEATHS):
            entry.outcome = "interrupted"
        else:
            entry.outcome = "failed"
        why = (
            f": exit status {code}; see {entry.run_dir / 'log.txt'}"
            if entry.outcome == "failed"
            else ""
        )
        say(f"{entry.outcome} {entry.label}, {entry.done()} of {entry.epochs} epochs{why}")

    def _stop_all(self) -> None:
        """SIGTERM, and SIGKILL for what has not written its checkpoint when most of the margin is
        gone.
        """
        for entry in self.running:
            entry.stopping = True
            self._signal(entry, signal.SIGTERM)
        patience = time.monotonic() + max(0.7 * self.margin, 1.0)
        while self.running and time.monotonic() < patience:
            self._reap()
            time.sleep(0.1)
        for entry in self.running:
            self._signal(entry, signal.SIGKILL)
        while self.running:
            self._reap()
            time.sleep(0.05)

    @staticmethod
    def _signal(entry: Entry, number: signal.Signals) -> None:
        if entry.process is not None and entry.process.poll() is None:
            entry.process.send_signal(number)

    def _report(self) -> None:
        if time.monotonic() - self.last_line < LINE_SECONDS:
            return
        self.last_line = time.monotonic()
        for entry in self.running:
            pace, done = entry.pace(), entry.done()
            ahead = (
                f", {pace:.2f} s an epoch, {pace * (entry.epochs - done) / 60:.1f} min to go"
                if pace
                else ""
            )
            say(f"  {entry.label}: epoch {done} of {entry.epochs}{ahead}")


def say(text: str) -> None:
    """One line with the time of day."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)
