"""A warm worker: runs one run directory after another, whatever started it. The only module of
`launch` that imports `rm`.

    python -m launch.worker          reads run directories, one a line, from standard input;
    answers each with a line of JSON
    python -m launch.worker RUN_DIR  is one of the processes that train it together, as
    launch/worker/process_group.py starts them

It writes into run directories only; it needs neither network nor database. SIGTERM, SIGINT,
SIGUSR2 and the end of its input make it checkpoint at the next step and stop.
"""

import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

import launch
import rm
from launch.garbage import importing
from launch.interpreter import foreign_code
from launch.runs import lease, rundir
from launch.runs.contents import Damaged
from launch.runs.resources import wanted
from launch.runs.rundir import RunDir
from launch.worker import distributed, process_group
from launch.worker.system_metrics import sampled
from rm.files import UNGUARDED, Permit

if TYPE_CHECKING:
    from rm.trial import Trial

_TOKEN = "RM_LEASE"
"""The environment variable with the token of the lease under which several processes train."""


Train = Callable[[Path, Callable[[], bool], Permit], dict[str, Any]]
"""(run directory, whether to stop, leave to write) -> answer of `run_one`."""


def run_one(run_dir: Path, stop: Callable[[], bool], train: Train | None = None) -> dict[str, Any]:
    """Run one run directory under its lease; returns {"outcome": finished|interrupted|failed|busy,
    "error": text or null}.

    train   what to do with it; default: train it

    Where it was asked to cancel this one (`RunDir.request_cancel`) the outcome is interrupted and
    the error "cancelled".
    """
    here = RunDir(run_dir)
    if (problem := foreign_code(rm.__file__, launch.__file__)) is not None:
        return {"outcome": "failed", "error": problem}
    try:
        with here.lease() as held, _log_to(here.file(rundir.LOG)):
            if held.cancelled() and not here.is_finished():
                return {
                    "outcome": "interrupted",
                    "error": rundir.CANCELLED,
                }  # while it was queued: not even started
            with sampled(run_dir, held.permit):
                cancelled = held.cancelled
                answer = (train or _train)(run_dir, lambda: stop() or cancelled(), held.permit)
            return (
                {**answer, "error": rundir.CANCELLED}
                if answer["outcome"] == "interrupted" and held.cancelled()
                else answer
            )
    except (lease.Busy, lease.Lost) as error:
        return {"outcome": "busy", "error": str(error)}
    except (OSError, Damaged) as error:
        return {"outcome": "failed", "error": f"{run_dir}: {error}"}


def _train(run_dir: Path, stop: Callable[[], bool], permit: Permit) -> dict[str, Any]:
    """Here, or by several processes of which this one is none."""
    processes = wanted(run_dir).processes
    if processes == 1 or RunDir(run_dir).is_finished():
        warm_up()
        return _fit(run_dir, stop, permit)
    _, before = RunDir(run_dir).events()
    os.environ[_TOKEN] = permit.token  # the first of the processes writes
    answer = distributed.train(run_dir, processes, stop)
    new, _ = RunDir(run_dir).events(before)
    if answer["outcome"] == "failed" and not any(event["event"] == "failed" for event in new):
        # Only the first process writes there.
        _note_failure(run_dir, answer["error"], answer.get("traceback"), permit)
    return {"outcome": answer["outcome"], "error": answer["error"]}


def _fit(
    run_dir: Path, stop: Callable[[], bool], permit: Permit, together: bool = False
) -> dict[str, Any]:
    """Train in this process; `together` with others that the environment tells of."""
    import traceback

    from rm.distributed import is_lost_peer, join
    from rm.train import Interrupted, fit

    try:
        group, device = join() if together else (None, None)
        trial = _load(run_dir, permit)
        fit(trial, run_dir, stop=stop, group=group, device=device, permit=permit)
    except Interrupted as error:
        return {"outcome": "interrupted", "error": str(error)}
    except lease.Lost as error:  # nothing of it is to be written, this neither
        return {"outcome": "busy", "error": str(error)}
    except (
        Exception
    ) as error:  # one failing trial never stops the others; its traceback is in the journal
        traceback.print_exc()
        answer: dict[str, Any] = {"outcome": "failed", "error": f"{type(error).__name__}: {error}"}
        if together:
            answer |= {"lost_peer": is_lost_peer(error), "traceback": traceback.format_exc()}
        return answer
    return {"outcome": "finished", "error": None}


def _load(run_dir: Path, permit: Permit) -> "Trial":
    """The trial; where it cannot be read the journal says so, as `fit` does with what goes wrong
    later.
    """
    from rm.trial import load_trial

    try:
        return load_trial(RunDir(run_dir).file(rundir.TRIAL))
    except Exception as error:
        if os.environ.get("RANK", "0") == "0":
            _note_failure(run_dir, f"{type(error).__name__}: {error}", None, permit)
        raise


def _note_failure(run_dir: Path, error: str, traceback: str | None, permit: Permit) -> None:
    from rm.rundir.journal import Journal

    with Journal(RunDir(run_dir).file(rundir.JOURNAL), permit=permit) as journal:
        journal.append("failed", error=error, traceback=traceback)


@contextmanager
def _log_to(path: Path) -> Iterator[None]:
    """Send this process's output and errors, C++ libraries' too, to the end of a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
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


def _own_stdin() -> TextIO:
    """The standard input, moved out of the way of processes that are forked off this one.

    Such a process (a DataLoader's) closes its `sys.stdin` first, for which it needs a lock that
    the thread reading requests holds.
    """
    ours = os.fdopen(os.dup(0), encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return ours


def _read_requests(
    lines: TextIO, requests: "queue.Queue[str | None]", stopped: threading.Event
) -> None:
    for line in lines:
        requests.put(line.strip())
    stopped.set()  # whoever started this worker is gone
    requests.put(None)


def main(train: Train | None = None) -> int:
    """The command; `train` as of `run_one`."""
    answers: TextIO = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # only answers go to the real standard output
    stopped = threading.Event()
    requests: queue.Queue[str | None] = queue.Queue()

    def on_signal(number: int, frame: object) -> None:
        stopped.set()
        requests.put(None)

    for each in (
        signal.SIGTERM,
        signal.SIGINT,
        signal.SIGUSR2,
    ):  # USR2: SLURM's warning reaches every process of a job
        signal.signal(each, on_signal)
    if len(sys.argv) > 1:
        return _one_of_several(Path(sys.argv[1]), answers, stopped.is_set)
    threading.Thread(
        target=_read_requests, args=(_own_stdin(), requests, stopped), daemon=True
    ).start()
    return _serve(requests, answers, stopped.is_set, train)


def _serve(
    requests: "queue.Queue[str | None]",
    answers: TextIO,
    stopped: Callable[[], bool],
    train: Train | None,
) -> int:
    """Run what is asked for on standard input until it ends or a signal comes."""
    while not stopped() and (request := requests.get()) is not None:
        try:
            answer = {"run_dir": request, **run_one(Path(request), stopped, train)}
        except (
            process_group.WorkerLost
        ) as error:  # as when this process had died itself: another one goes on
            print(error, file=sys.stderr)
            return 1
        try:
            answers.write(json.dumps(answer) + "\n")
        except BrokenPipeError:
            break
    return 0


def _one_of_several(run_dir: Path, answers: TextIO, stopped: Callable[[], bool]) -> NoReturn:
    """Train with the others, answer, and end."""
    threading.Thread(target=_end_with_input, args=(_own_stdin(),), daemon=True).start()
    warm_up()
    permit = UNGUARDED
    if os.environ["RANK"] == "0":
        permit = lease.permit(RunDir(run_dir).file(rundir.LEASE), os.environ[_TOKEN])
    answer = {"rank": int(os.environ["RANK"]), **_fit(run_dir, stopped, permit, together=True)}
    sys.stderr.flush()
    with suppress(BrokenPipeError):
        answers.write(json.dumps(answer) + "\n")
    os._exit(0)  # what a communication library would still like to settle must not hold it up


def _end_with_input(lines: TextIO) -> None:
    """Whoever started this process is gone, and with it the lease: not one step more."""
    lines.read()
    os._exit(1)


def warm_up() -> None:
    """Import what every trial needs, and take the thread share that the launcher gave."""
    with importing("rm.train"):
        import torch

        import rm.train  # noqa: F401
    torch.set_num_threads(int(os.environ.get("RM_THREADS", torch.get_num_threads())))
