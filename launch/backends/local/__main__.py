"""Train run directories on this machine, with nothing but torch, torchvision, timm and numpy.

    python -m launch.backends.local FOLDER --deadline 9 --trials-per-gpu 3

FOLDER is what `run.py export` wrote, or any folder of run directories. What is finished stays;
what was interrupted resumes; parents train before what starts from them. In the end what came of
them is packed into FOLDER/back, for `run.py import` on the machine that has the records. Exit
status 0 all finished, 1 something failed, 2 bad input, 75 stopped at the deadline, 130 by Ctrl-C.
"""

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

from launch.backends.base import Limits, exit_status
from launch.backends.deadline import Deadline
from launch.backends.local.backend import LocalBackend
from launch.console import duration
from launch.errors import UsageError
from launch.gpus import visible_gpus
from launch.runs.job import Outcome
from launch.runs.rundir import RunDir
from launch.runs.status import read_snapshot, resolve_status
from launch.runs.transfer import pack, read_manifest, run_dirs_of

LINE_SECONDS = 30.0


class LogWatcher:
    """Tells what happens in lines with the time of day."""

    def __init__(self, labels: dict[str, str]) -> None:
        self.labels = labels
        self.running: set[Path] = set()
        self.last_line = time.monotonic()

    def label(self, run_dir: Path) -> str:
        return self.labels.get(run_dir.name, run_dir.name)

    def on_start(self, run_dir: Path) -> None:
        self.running.add(run_dir)
        log(f"started {self.label(run_dir)}")

    def on_death(self, run_dir: Path, how: str) -> None:
        log(f"{self.label(run_dir)}: {how}; retrying on another worker")

    def on_wait(self, run_dir: Path, for_whom: str) -> None:
        log(f"{self.label(run_dir)}: waiting: {for_whom}")

    def on_end(self, run_dir: Path, outcome: Outcome) -> None:
        self.running.discard(run_dir)
        log(f"{outcome.status} {self.label(run_dir)}{f': {outcome.error}' * bool(outcome.error)}")

    def tick(self) -> None:
        if time.monotonic() - self.last_line < LINE_SECONDS:
            return
        self.last_line = time.monotonic()
        for run_dir in sorted(self.running):
            log(f"  {self.label(run_dir)}: {_progress(run_dir)}")


def _progress(run_dir: Path) -> str:
    """`epoch 12 of 200, step 40 of 391, loss 2.310, 5 min left`, as far as it is known."""
    epochs = RunDir(run_dir).epochs
    now = resolve_status(read_snapshot(run_dir), None, epochs)
    if not epochs:
        return f"{now.points} points measured"
    words = [f"epoch {min(now.epoch + 1, epochs)} of {epochs}"]
    if now.steps:
        words.append(f"step {now.step} of {now.steps}")
    if now.loss is not None:
        words.append(f"loss {now.loss:.3f}")
    if now.seconds_left is not None:
        words.append(f"{duration(now.seconds_left)} left")
    return ", ".join(words)


def log(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def main(arguments: list[str] | None = None) -> int:
    args = _parser().parse_args(arguments)
    folder: Path = args.folder.resolve()
    run_dirs = run_dirs_of(folder) if folder.is_dir() else []
    if not run_dirs:
        print(f"error: {folder}: no run directories are in it", file=sys.stderr)
        return 2
    labels = {trial["id"]: trial["label"] for trial in read_manifest(folder).get("trials", [])}
    # Parents that were finished before are here for their weights alone.
    own = [run_dir for run_dir in run_dirs if not labels or run_dir.name in labels]
    left = [run_dir for run_dir in run_dirs if RunDir(run_dir).state() != "finished"]
    gpus = f"{len(visible_gpus())} GPUs" if visible_gpus() else "no GPU: trains on CPU cores"
    log(f"{len(left)} of {len(run_dirs)} run directories are unfinished; {gpus}")
    limits = Limits(args.workers, args.trials_per_gpu, args.deadline)
    try:
        ended = LocalBackend().run(left, LogWatcher(labels), limits) if left else {}
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for line in pack(folder, own, args.out or folder / "back", args.with_checkpoints):
        log(line)
    counts = Counter(outcome.status for outcome in ended.values())
    log(", ".join(f"{n} {status}" for status, n in counts.items()) or "all were finished")
    return exit_status(ended, limits)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m launch.backends.local",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument(
        "--deadline",
        type=Deadline.in_minutes,
        metavar="MINUTES",
        help="checkpoint, stop and pack before then",
    )
    parser.add_argument("--workers", type=int, help="trials at a time")
    parser.add_argument("--trials-per-gpu", type=int, default=1, help="default: 1")
    parser.add_argument("--out", type=Path, help="where archives go (default: FOLDER/back)")
    parser.add_argument(
        "--with-checkpoints",
        action="store_true",
        help="pack weights, and checkpoints of what is unfinished, as well",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
