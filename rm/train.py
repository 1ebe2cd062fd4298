"""The one training loop: `fit` trains a trial in a run directory, from wherever it was left, and
writes result.json at the end.

python -m rm.train TRIAL.json RUN_DIR        # exit status 0 finished, 1 failed, 2 bad input, 75
interrupted (run it again) python -m torch.distributed.run --nproc-per-node 2 -m rm.train
TRIAL.json RUN_DIR
"""

import argparse
import json
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Any

import torch

from rm.datasets import DataError
from rm.distributed import ProcessGroup, is_lost_peer, join
from rm.rundir import checkpoint
from rm.rundir.journal import Journal, read
from rm.rundir.provenance import record_attempt
from rm.trainer import Run
from rm.trial import Trial, TrialError, load_trial

INTERRUPTED = 75


class Interrupted(Exception):
    """Training stopped where it was told to, after a checkpoint; running the trial again goes on
    from there.
    """


class Diverged(RuntimeError):
    """The loss stopped being a finite number."""


def fit(
    trial: Trial,
    run_dir: Path,
    *,
    device: torch.device | None = None,
    processes: ProcessGroup | None = None,
    stop: Callable[[], bool] = lambda: False,
    checkpoint_seconds: float | None = None,
) -> dict[str, Any]:
    """Train a trial in `run_dir` and return its result, as it stands in result.json.

    stop                 asked before every step; true: checkpoint and raise Interrupted
    checkpoint_seconds   time between periodic checkpoints (default $RM_CHECKPOINT_SECONDS or 300);
                         0 is every step
    processes            the group that trains together; each calls `fit`, the first one writes

    An interrupted or killed run goes on from its newest whole checkpoint and ends with the numbers
    of an undisturbed one. Any error is written to the journal as `failed`, with its traceback,
    before it is raised.
    """
    processes = processes or ProcessGroup()
    finished = run_dir / "result.json"
    if finished.exists():
        result: dict[str, Any] = json.loads(finished.read_text(encoding="utf-8"))
        return result
    every = (
        float(os.environ.get("RM_CHECKPOINT_SECONDS", 300))
        if checkpoint_seconds is None
        else checkpoint_seconds
    )
    with Journal(run_dir / "journal.jsonl", silent=not processes.is_first) as journal:
        try:
            _same_threads(read(journal.path))
            device = device or default_device()
            if processes.is_first:
                record_attempt(run_dir, device)
            if trial.probe is None:
                with closing(Run(trial, device, processes)) as run:
                    train(run, run_dir, journal, stop, every)
                    result = _result(run)
            else:
                result = _measured(trial, device, processes, journal, stop)
        except Interrupted:
            raise
        except Exception as error:
            if processes.count > 1 and is_lost_peer(error):
                raise  # this process has not failed; whoever started them knows which one has
            journal.append(
                "failed",
                error=f"{type(error).__name__}: {error}",
                traceback=traceback.format_exc(),
            )
            raise
        if processes.is_first:
            checkpoint.write_atomically(finished, json.dumps(result, indent=1))
            (run_dir / "checkpoint.prev.pt").unlink(missing_ok=True)
        journal.append("finished", **result["metrics"])
        return result


def _measured(
    trial: Trial,
    device: torch.device,
    processes: ProcessGroup,
    journal: Journal,
    stop: Callable[[], bool],
) -> dict[str, Any]:
    """The result of a trial with a probe, which is measured and not trained."""
    from rm.probes._measure import measure

    if processes.count > 1:
        raise TrialError(
            f"trial {trial.id} is a measurement ({trial.probe}) and takes one process, not "
            f"{processes.count}"
        )

    def check() -> None:
        if stop():
            journal.append("interrupted", epoch=0, step=0)
            raise Interrupted(f"stopped while measuring {trial.probe}")

    return measure(trial, device, journal, check)


def default_device() -> torch.device:
    """The first GPU that CUDA_VISIBLE_DEVICES leaves, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _same_threads(events: list[dict[str, Any]]) -> None:
    """Sums on a CPU depend on the number of threads: a resumed run keeps the number it began
    with.
    """
    begun = next((e["threads"] for e in events if e["event"] == "started"), None)
    if begun is not None:
        torch.set_num_threads(begun)


def train(
    run: Run, run_dir: Path, journal: Journal, stop: Callable[[], bool], every: float
) -> None:
    """From the newest checkpoint, or the start, through the last epoch."""
    _begin(run, run_dir, journal)
    last_save = time.monotonic()
    while run.epoch <= run.options.epochs:
        began = time.monotonic()
        while run.step < run.steps_per_epoch:
            stopping, due = run.processes.any(stop(), time.monotonic() - last_save >= every)
            if stopping or due:
                run.seconds += time.monotonic() - began
                save(run, run_dir, journal)
                if stopping:
                    journal.append("interrupted", epoch=run.epoch, step=run.step)
                    raise Interrupted(
                        f"stopped in epoch {run.epoch} of {run.options.epochs}, before step "
                        f"{run.step + 1}"
                    )
                began = last_save = time.monotonic()
            run.take_step()
        check_finite(
            run, run_dir
        )  # reads from the device, so that the clock stops when the work is done
        run.seconds += time.monotonic() - began
        journal.append("epoch", durable=False, **run.end_epoch())
    save(run, run_dir, journal)


def _begin(run: Run, run_dir: Path, journal: Journal) -> None:
    saved = checkpoint.load(run_dir, run.device)
    if saved is None:
        several: dict[str, Any] = (
            {"processes": run.processes.count} if run.processes.count > 1 else {}
        )
        threads, device = torch.get_num_threads(), str(run.device)
        journal.append(
            "started", epochs=run.options.epochs, threads=threads, device=device, **several
        )
        return
    run.load_state_dict(saved)
    journal.append("resumed", epoch=run.epoch, step=run.step)
    # A power cut can take the newest epoch events with it; the checkpoint still knows them.
    known = {event["epoch"] for event in read(journal.path) if event["event"] == "epoch"}
    for metrics in run.epochs:
        if metrics["epoch"] not in known:
            journal.append("epoch", durable=False, **metrics)


def save(run: Run, run_dir: Path, journal: Journal) -> None:
    """Write a checkpoint; a diverged state never replaces a good one."""
    check_finite(run, run_dir)
    state = run.state_dict()
    if run.processes.is_first:
        checkpoint.save(run_dir, state)
    run.processes.wait()
    journal.append("checkpoint", epoch=run.epoch, step=run.step)


def check_finite(run: Run, run_dir: Path) -> None:
    """Raise Diverged, naming step, learning rate and the last good checkpoint, once any process's
    loss was not finite.
    """
    bad = run.processes.largest(int(run.bad_step))
    if bad < 0:
        return
    held = [name for name in ("checkpoint.pt", "checkpoint.prev.pt") if (run_dir / name).exists()]
    raise Diverged(
        f"the loss is not finite at step {bad} of epoch {run.epoch} (lr {run.lr:g}); last good "
        "checkpoint: "
        f"{run_dir / held[0] if held else 'none yet'}"
    )


def _result(run: Run) -> dict[str, Any]:
    metrics: dict[str, float] = {}
    evaluated = [epoch for epoch in run.epochs if "test_top1_error" in epoch]
    for name in ("top1_error", "top5_error"):
        values = [epoch[f"test_{name}"] for epoch in evaluated]
        metrics |= {
            f"best_{name}": min(values),
            f"last_{name}": values[-1],
            f"median_last_10_{name}": median(values[-10:]),
        }
    metrics["best_epoch"] = min(evaluated, key=lambda epoch: epoch["test_top1_error"])["epoch"]
    return {
        "id": run.trial.id,
        "seed": run.trial.seed,
        "metrics": metrics,
        "epochs": run.options.epochs,
        "train_seconds": sum(epoch["epoch_seconds"] for epoch in run.epochs),
        "parameters": sum(p.numel() for p in run.model.parameters()),
        "test_images": len(run.test),
    }


def main(arguments: list[str] | None = None) -> int:
    """The command `python -m rm.train`."""
    given = _parser().parse_args(arguments)
    stopped: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: stopped.append(number))
    try:
        trial = load_trial(given.trial)
        processes, device = (
            join() if int(os.environ.get("WORLD_SIZE", 1)) > 1 else (ProcessGroup(), given.device)
        )
        given.run_dir.mkdir(parents=True, exist_ok=True)
        if (
            processes.is_first
            and given.trial.resolve() != (given.run_dir / "trial.json").resolve()
        ):
            shutil.copyfile(given.trial, given.run_dir / "trial.json")
        every = given.checkpoint_seconds
        result = fit(
            trial,
            given.run_dir,
            device=device,
            processes=processes,
            stop=lambda: bool(stopped),
            checkpoint_seconds=every,
        )
    except TrialError as error:
        print(error, file=sys.stderr)
        return 2
    except Interrupted as error:
        print(f"{error}; run the same command again to go on", file=sys.stderr)
        return INTERRUPTED
    except (DataError, Diverged, checkpoint.CheckpointError) as error:
        print(error, file=sys.stderr)
        return 1
    if processes.is_first:
        print(json.dumps(result["metrics"]))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m rm.train", description="Train one trial in one run directory."
    )
    parser.add_argument("trial", type=Path, metavar="TRIAL.json")
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    parser.add_argument(
        "--device",
        type=torch.device,
        default=None,
        help="cuda, cuda:1, cpu; default: a GPU if there is one",
    )
    parser.add_argument(
        "--checkpoint-seconds",
        type=float,
        default=None,
        help="default: $RM_CHECKPOINT_SECONDS or 300",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
