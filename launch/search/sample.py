"""A sample's training, which takes one evaluated epoch at a time and tells what the journal says
of it.
"""

import math
import queue
import threading
import time
from pathlib import Path
from typing import Any

from launch.runs.rundir import RunDir
from rm.metrics import Metric, from_recorded, recorded_as

WORST = 1e9
"""The loss of a sample that failed, and the size of its value; finite numbers, as a scheduler's
percentiles need them.
"""


def worst(metric: Metric) -> float:
    """The value of a sample that failed."""
    return -metric.best([WORST, -WORST])


class SampleTraining:
    """A sample's training in a thread, which goes on by one evaluated epoch whenever `next` is
    called.
    """

    def __init__(self, run_dir: Path, metric: Metric, stop_file: Path) -> None:
        self.run_dir, self.metric, self.stop_file = run_dir, metric, stop_file
        self.key = f"test_{recorded_as(metric.name)}"
        self.offset, self.looked = 0, 0.0
        self.last: dict[str, Any] = {"epoch": 0, "value": worst(metric), "loss": WORST}
        self.stopping = False
        self.turn = threading.Semaphore(0)
        self.reports: queue.Queue[dict[str, Any]] = queue.Queue()
        self.thread: threading.Thread | None = None

    def next(self) -> dict[str, Any]:
        """The next epoch: epoch, value, loss, outcome (running, or how it ended), error, done.

        Epochs that the journal knows from before are told first, without training them again.
        """
        if self.thread is None:
            self.thread = threading.Thread(target=self._work, daemon=True)
            self.thread.start()
        else:
            self.turn.release()
        return self.reports.get()

    def end(self) -> None:
        """Checkpoint and stop, if it is not over yet."""
        self.stopping = True
        self.turn.release()
        if self.thread is not None:
            self.thread.join()

    def _work(self) -> None:
        from launch.worker.worker import run_one, warm_up

        warm_up()
        answer = run_one(self.run_dir, self._asked_to_stop)
        while answer["outcome"] == "busy" and not self._stop_is_wanted():
            time.sleep(1.0)  # another launcher trains this very trial for another spec
            answer = run_one(self.run_dir, self._asked_to_stop)
        events = self._new_epochs()
        for event in events[:-1]:
            self._report(event)
        last = self._values(events[-1]) if events else self.last
        value = {"value": worst(self.metric)} if answer["outcome"] == "failed" else {}
        self.reports.put({**last, **value, **answer, "done": True})

    def _asked_to_stop(self) -> bool:
        """Asked before every step, in the training's thread: tell what is new and wait for the
        next turn.
        """
        for event in self._new_epochs():
            if not self.stopping:
                self._report(event)
        return self._stop_is_wanted()

    def _stop_is_wanted(self) -> bool:
        """Tune's word, or the launcher's: a file, looked for twice a second, reaches a training in
        the middle of an epoch.
        """
        if not self.stopping and time.monotonic() - self.looked > 0.5:
            self.looked = time.monotonic()
            self.stopping = self.stop_file.exists()
        return self.stopping

    def _report(self, event: dict[str, Any]) -> None:
        self.reports.put(
            {**self._values(event), "outcome": "running", "error": None, "done": False}
        )
        while not self.turn.acquire(timeout=0.5) and not self._stop_is_wanted():
            pass

    def _values(self, event: dict[str, Any]) -> dict[str, Any]:
        value = from_recorded(self.metric.name, float(event[self.key]))
        loss = float(event["test_loss"])
        self.last = {
            "epoch": int(event["epoch"]),
            "value": value if math.isfinite(value) else worst(self.metric),
            "loss": loss if math.isfinite(loss) else WORST,
        }
        return self.last

    def _new_epochs(self) -> list[dict[str, Any]]:
        """Evaluated epochs that the journal has got since, each once: a resumed training may
        journal some again.
        """
        events, self.offset = RunDir(self.run_dir).readable_events(self.offset)
        key, known, new = self.key, int(self.last["epoch"]), []
        for event in events:
            if event["event"] == "epoch" and key in event and event["epoch"] > known:
                known = event["epoch"]
                new.append(event)
        return new
