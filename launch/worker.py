"""A warm worker: runs one run directory after another, whatever started it. The only module of `launch` that imports `rm`.

    python -m launch.worker          reads run directories, one a line, from standard input; answers each with a line of JSON

It writes into run directories only; it needs neither network nor database. SIGTERM, SIGINT, SIGUSR2 and the end of its input
make it checkpoint at the next step and stop.
"""

import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from launch import rundir
from launch.system_metrics import sampled

if TYPE_CHECKING:
    from rm.options import Trial


def run_one(run_dir: Path, stop: Callable[[], bool]) -> dict[str, Any]:
    """Run one run directory under its lease; returns {"outcome": finished|interrupted|failed|busy, "error": text or null}.

    Where it was asked to cancel this one (`rundir.request_cancel`) the outcome is interrupted and the error "cancelled".
    """
    try:
        with rundir.lease(run_dir) as cancelled, _log_to(run_dir / "log.txt"):
            if cancelled() and not (run_dir / "result.json").exists():
                return {"outcome": "interrupted", "error": rundir.CANCELLED}  # while it was queued: not even started
            with sampled(run_dir):
                answer = _train(run_dir, lambda: stop() or cancelled())
            return (
                {**answer, "error": rundir.CANCELLED} if answer["outcome"] == "interrupted" and cancelled() else answer
            )
    except rundir.Busy as error:
        return {"outcome": "busy", "error": str(error)}
    except OSError as error:
        return {"outcome": "failed", "error": f"{run_dir}: {error}"}


def _train(run_dir: Path, stop: Callable[[], bool]) -> dict[str, Any]:
    from rm.train import Interrupted, fit

    try:
        fit(_load(run_dir), run_dir, stop=stop)
    except Interrupted as error:
        return {"outcome": "interrupted", "error": str(error)}
    except Exception as error:  # one failing trial never stops the others; its traceback is in the journal
        import traceback

        traceback.print_exc()
        return {"outcome": "failed", "error": f"{type(error).__name__}: {error}"}
    return {"outcome": "finished", "error": None}


def _load(run_dir: Path) -> "Trial":
    """The trial; where it cannot be read the journal says so, as `fit` does with what goes wrong later."""
    from rm.journal import Journal
    from rm.options import load_trial

    try:
        return load_trial(run_dir / "trial.json")
    except Exception as error:
        with Journal(run_dir / "journal.jsonl") as journal:
            journal.append("failed", error=f"{type(error).__name__}: {error}", traceback=None)
        raise


@contextmanager
def _log_to(path: Path) -> Iterator[None]:
    """Send this process's output and errors, C++ libraries' too, to the end of a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, number)
            os.close(copy)


def _read_requests(requests: "queue.Queue[str | None]", stopped: threading.Event) -> None:
    for line in sys.stdin:
        requests.put(line.strip())
    stopped.set()  # whoever started this worker is gone
    requests.put(None)


def main() -> int:
    """Serve run directories from standard input until it ends or a signal comes."""
    answers: TextIO = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # only answers go to the real standard output
    stopped = threading.Event()
    requests: queue.Queue[str | None] = queue.Queue()

    def on_signal(number: int, frame: object) -> None:
        stopped.set()
        requests.put(None)

    for each in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):  # USR2: SLURM's warning reaches every process of a job
        signal.signal(each, on_signal)
    threading.Thread(target=_read_requests, args=(requests, stopped), daemon=True).start()
    warm_up()
    while not stopped.is_set() and (request := requests.get()) is not None:
        answer = {"run_dir": request, **run_one(Path(request), stopped.is_set)}
        try:
            answers.write(json.dumps(answer) + "\n")
        except BrokenPipeError:
            break
    return 0


def warm_up() -> None:
    """Import what every trial needs, and take the thread share that the launcher gave."""
    import torch

    import rm.train  # noqa: F401

    torch.set_num_threads(int(os.environ.get("RM_THREADS", torch.get_num_threads())))


if __name__ == "__main__":
    sys.exit(main())
