"""The one training loop: `fit` trains a trial in a run directory, from wherever it was left, and
writes result.json at the end.

python -m rm.train TRIAL.json RUN_DIR     # exit status 0 finished, 1 failed, 2 bad input,
                                          # 75 interrupted (run it again)
python -m torch.distributed.run --nproc-per-node 2 -m rm.train TRIAL.json RUN_DIR
"""

import argparse
import json
import math
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import torch

from rm.datasets import DataError
from rm.distributed import ProcessGroup, default_device, is_lost_peer, join, named_device
from rm.files import UNGUARDED, Permit, write_atomically
from rm.memory import keep_freed_memory
from rm.rundir import checkpoint, weights
from rm.rundir.divergence import Diverged, check_finite, check_metrics
from rm.rundir.journal import Journal, read
from rm.rundir.position import PositionFile
from rm.rundir.provenance import record_attempt
from rm.rundir.result import read_result, result_of, save_weights
from rm.trainer import Trainer
from rm.trial import Trial, TrialError, load_trial

INTERRUPTED = 75


class Interrupted(Exception):
    """Training stopped where it was told to, after a checkpoint; running the trial again resumes
    from there.
    """


def fit(
    trial: Trial,
    run_dir: Path,
    *,
    device: torch.device | None = None,
    group: ProcessGroup | None = None,
    stop: Callable[[], bool] = lambda: False,
    checkpoint_seconds: float | None = None,
    permit: Permit = UNGUARDED,
) -> dict[str, Any]:
    """Train a trial in `run_dir` and return its result, as it stands in result.json.

    stop                 asked before every step; true: checkpoint and raise Interrupted
    checkpoint_seconds   time between periodic checkpoints (default $RM_CHECKPOINT_SECONDS or 300);
                         0 is every step
    group                the processes that train together; each calls `fit`, the first one writes
    permit               asked before each write; what it raises ends the training

    An interrupted or killed run resumes from its newest whole checkpoint and ends with the numbers
    of an undisturbed one. Any error is written to the journal as `failed`, with its traceback,
    before it is raised.
    """
    group = group or ProcessGroup()
    result = read_result(run_dir)
    if result is not None:
        return result
    with Journal(run_dir / "journal.jsonl", silent=not group.is_first, permit=permit) as journal:
        with _journalled_failures(journal, group):
            if checkpoint_seconds is None:
                checkpoint_seconds = seconds_between_checkpoints()
            _same_threads(read(journal.path))
            device = device or default_device()
            torch.backends.cudnn.deterministic = trial.train.deterministic
            if device.type == "cpu":
                keep_freed_memory()
            if group.is_first:
                record_attempt(run_dir, device, permit)
            if trial.probe is None:
                result = _trained(trial, run_dir, device, group, journal, stop, checkpoint_seconds)
            else:
                result = _measured(trial, device, group, journal, stop)
        if group.is_first:
            write_atomically(run_dir / "result.json", json.dumps(result, indent=1), permit)
            (run_dir / "checkpoint.prev.pt").unlink(missing_ok=True)
        journal.append("finished", **result["metrics"])
        return result


@contextmanager
def _journalled_failures(journal: Journal, group: ProcessGroup) -> Iterator[None]:
    """Write an error to the journal and raise it again."""
    try:
        yield
    except Interrupted:
        raise
    except Exception as error:
        if group.count > 1 and is_lost_peer(error):
            raise  # this process has not failed; whoever started them knows which one has
        journal.append(
            "failed",
            error=f"{type(error).__name__}: {error}",
            traceback=traceback.format_exc(),
        )
        raise


def _trained(
    trial: Trial,
    run_dir: Path,
    device: torch.device,
    group: ProcessGroup,
    journal: Journal,
    stop: Callable[[], bool],
    checkpoint_seconds: float,
) -> dict[str, Any]:
    """The result of a training, resumed or from its start; its weights are written already."""
    damaged: list[str] = []
    saved = checkpoint.load(run_dir, device, damaged.append)
    if damaged:
        whence = "the one before" if saved else "the start"
        print(f"{' and '.join(damaged)} cannot be read: resumes from {whence}", file=sys.stderr)
    # A checkpoint holds all weights: where there is one, those of the start are not asked for.
    init = weights.read_init(trial.init, run_dir) if trial.init and saved is None else None
    with closing(Trainer(trial, device, group, init=init)) as trainer:
        train(trainer, run_dir, journal, stop, checkpoint_seconds, saved, damaged)
        written = save_weights(trainer, run_dir, permit=journal.permit) if group.is_first else {}
        return result_of(trainer, written)


def _measured(
    trial: Trial,
    device: torch.device,
    group: ProcessGroup,
    journal: Journal,
    stop: Callable[[], bool],
) -> dict[str, Any]:
    """The result of a trial with a probe, which is measured and not trained."""
    from rm.probes._measure import measure

    if group.count > 1:
        raise TrialError(
            f"trial {trial.id} is a measurement ({trial.probe}) and takes one process, not "
            f"{group.count}"
        )

    def raise_if_stopped() -> None:
        if stop():
            journal.append("interrupted")
            raise Interrupted(f"stopped while measuring {trial.probe}")

    return measure(trial, device, journal, raise_if_stopped)


def _same_threads(events: list[dict[str, Any]]) -> None:
    """Sums on a CPU depend on the number of threads: a resumed run keeps the number it began
    with.
    """
    begun = next((e["threads"] for e in events if e["event"] == "started"), None)
    if begun is not None:
        torch.set_num_threads(begun)


def train(
    trainer: Trainer,
    run_dir: Path,
    journal: Journal,
    stop: Callable[[], bool],
    checkpoint_seconds: float,
    saved: dict[str, Any] | None = None,
    damaged: Sequence[str] = (),
) -> None:
    """From a checkpoint, or the start, through the last epoch.

    damaged   the checkpoints that could not be read
    """
    _begin(trainer, journal, saved, damaged)
    last_save = time.monotonic()
    position = PositionFile(run_dir, silent=journal.silent, permit=journal.permit)
    while trainer.epoch <= trainer.options.epochs:
        began = time.monotonic()
        while trainer.step < trainer.steps_per_epoch:
            due = time.monotonic() - last_save >= checkpoint_seconds
            stopping, due = trainer.group.any(stop(), due)
            if stopping or due:
                trainer.seconds += time.monotonic() - began
                save(trainer, run_dir, journal)
                if stopping:
                    journal.append("interrupted", epoch=trainer.epoch, step=trainer.step)
                    raise Interrupted(
                        f"stopped in epoch {trainer.epoch} of {trainer.options.epochs}, before "
                        f"step {trainer.step + 1}"
                    )
                began = last_save = time.monotonic()
            position.after_step(trainer, trainer.train_step())
        # This reads from the device, so that the clock stops when the work is done.
        check_finite(trainer, run_dir)
        trainer.seconds += time.monotonic() - began
        metrics = trainer.end_epoch()
        check_metrics(trainer, run_dir, metrics)
        journal.append("epoch", durable=False, **metrics)
    save(trainer, run_dir, journal)
    position.remove()


def _begin(
    trainer: Trainer, journal: Journal, saved: dict[str, Any] | None, damaged: Sequence[str]
) -> None:
    more: dict[str, Any] = {"damaged": list(damaged)} if damaged else {}
    if saved is None:
        more |= {"processes": trainer.group.count} if trainer.group.count > 1 else {}
        journal.append(
            "started",
            epochs=trainer.options.epochs,
            threads=torch.get_num_threads(),
            device=str(trainer.device),
            **more,
        )
        return
    trainer.load_state_dict(saved)
    journal.append("resumed", epoch=trainer.epoch, step=trainer.step, **more)
    # A power cut can take the newest epoch events with it; the checkpoint still knows them.
    known = {event["epoch"] for event in read(journal.path) if event["event"] == "epoch"}
    for metrics in trainer.epochs:
        if metrics["epoch"] not in known:
            journal.append("epoch", durable=False, **metrics)


def save(trainer: Trainer, run_dir: Path, journal: Journal) -> None:
    """Write a checkpoint; a diverged state never replaces a good one."""
    check_finite(trainer, run_dir)
    state = trainer.state_dict()
    if trainer.group.is_first:
        checkpoint.save(run_dir, state, journal.permit)
    trainer.group.wait()
    journal.append("checkpoint", epoch=trainer.epoch, step=trainer.step)


def seconds_between_checkpoints() -> float:
    """$RM_CHECKPOINT_SECONDS, else 300; TrialError where it is no number of seconds."""
    asked = os.environ.get("RM_CHECKPOINT_SECONDS", "300")
    try:
        seconds = float(asked)
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:
        raise TrialError(
            f"RM_CHECKPOINT_SECONDS must be a number of seconds from 0 on, found '{asked}'"
        )
    return seconds


def main(arguments: list[str] | None = None) -> int:
    """The command `python -m rm.train`."""
    args = _parser().parse_args(arguments)
    signals: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: signals.append(number))
    try:
        trial = load_trial(args.trial)
        together = int(os.environ.get("WORLD_SIZE", 1)) > 1
        group, device = join() if together else (ProcessGroup(), args.device)
        args.run_dir.mkdir(parents=True, exist_ok=True)
        here = args.run_dir / "trial.json"
        if group.is_first and args.trial.resolve() != here.resolve():
            shutil.copyfile(args.trial, here)
        result = fit(
            trial,
            args.run_dir,
            device=device,
            group=group,
            stop=lambda: bool(signals),
            checkpoint_seconds=args.checkpoint_seconds,
        )
    except TrialError as error:
        print(error, file=sys.stderr)
        return 2
    except Interrupted as error:
        print(f"{error}; run the same command again to resume", file=sys.stderr)
        return INTERRUPTED
    except (DataError, Diverged, checkpoint.CheckpointError) as error:
        print(error, file=sys.stderr)
        return 1
    if group.is_first:
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
        type=named_device,
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
