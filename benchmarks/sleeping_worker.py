"""A worker whose trials sleep instead of training: everything else is the real one's.

    RM_SLEEPS=FILE.json python -m benchmarks.sleeping_worker    as `python -m launch.worker`

The file says of each trial how many ticks it takes, and how long a tick is; after each, its
journal says `checkpoint`. A killed trial resumes from its last tick.
"""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from launch.runs import rundir
from launch.runs.rundir import RunDir
from launch.worker.worker import main
from rm.files import Permit, write_atomically
from rm.rundir.journal import Journal

VARIABLE = "RM_SLEEPS"
GPUS_OF_A_NODE = 8


@cache
def sleeps() -> dict[str, Any]:
    """{"tick": seconds, "ticks": {trial id: how many}}."""
    found: dict[str, Any] = json.loads(Path(os.environ[VARIABLE]).read_text(encoding="utf-8"))
    return found


def sleep(run_dir: Path, stop: Callable[[], bool], permit: Permit) -> dict[str, Any]:
    """Instead of a training; in the place of `launch.worker.worker.run_one`'s `train`."""
    here, ticks = RunDir(run_dir), sleeps()["ticks"][run_dir.name]
    events, _ = here.events()
    done = here.position()[1]
    with Journal(here.file(rundir.JOURNAL), permit=permit) as journal:
        begin = "resumed" if any(e["event"] == "started" for e in events) else "started"
        gpus = os.environ["CUDA_VISIBLE_DEVICES"]
        journal.append(begin, durable=False, epoch=1, epochs=1, step=done, device=gpus)
        due = time.monotonic()
        while done < ticks:
            due += sleeps()["tick"] * min(1.0, ticks - done)
            time.sleep(max(0.0, due - time.monotonic()))
            done += 1
            journal.append("checkpoint", durable=False, epoch=1, step=done)
            if stop() and done < ticks:
                journal.append("interrupted", durable=False, epoch=1, step=done)
                return {"outcome": "interrupted", "error": "asked to stop"}
        here.weights.touch()
        result = {"id": here.id, "metrics": {}, "epochs": 1, "weights": {}}
        write_atomically(here.file(rundir.RESULT), json.dumps(result), permit)
        journal.append("finished", durable=False)
    return {"outcome": "finished", "error": None}


class Reaper:
    """Takes nodes away: kills all workers that have a GPU of one.

    visits   seconds to wait, and the node, one after the other
    """

    def __init__(self, visits: Iterable[tuple[float, int]]) -> None:
        self.visits = visits
        self.killed = 0
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._loop, daemon=True)

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.thread.join()

    def _loop(self) -> None:
        for wait, node in self.visits:
            if self.done.wait(wait):
                return
            first = node * GPUS_OF_A_NODE
            mine = {str(gpu) for gpu in range(first, first + GPUS_OF_A_NODE)}
            for pid, gpus in worker_gpus():
                if gpus & mine:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                    self.killed += 1


def worker_gpus() -> Iterator[tuple[int, set[str]]]:
    """Process and GPUs of each worker that this process started."""
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):
            children = (task / "children").read_text(encoding="ascii").split()
            for pid in map(int, children):
                with suppress(OSError):
                    words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
                    gpus = [w for w in words if w.startswith(b"CUDA_VISIBLE_DEVICES=")]
                    if gpus and any(w.startswith(VARIABLE.encode()) for w in words):
                        yield pid, set(gpus[0].decode().partition("=")[2].split(","))


if __name__ == "__main__":
    sys.exit(main(sleep))
