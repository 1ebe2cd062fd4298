"""`sync`: bring MLflow up to date with all run directories, or with those of some specs, whoever
ran them.

Only what is new is sent, and it may be stopped or killed at any moment: the next one goes on from
there.
"""

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from launch.commands import load_specs, mirror_quietly
from launch.commands._follow import add_followers, catch_up, followers_of
from launch.console import say
from launch.paths import results_dir, runs_dir
from launch.runs import committed
from launch.runs.rundir import RunDir
from launch.tracking.mirror import Progress

HELP = "mirror run directories into MLflow"
PLAIN_SECONDS = 10.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "specs", nargs="*", metavar="SPEC.yaml", help="only their trials (default: all there are)"
    )
    parser.add_argument(
        "--profile", help="a smaller copy of the table that the spec describes, such as smoke"
    )
    parser.add_argument(
        "--full",
        action="store_true",
        help="look everything up in the store, also what is known to be there: for a server whose "
        "store was replaced",
    )
    parser.add_argument(
        "--weights",
        action="store_true",
        help="also export the weights of finished trials, and keep them as artifacts",
    )
    add_followers(parser)
    parser.set_defaults(seeds=None)


def run(args: argparse.Namespace) -> int:
    followers = followers_of(args)
    restored = committed.restore(runs_dir())
    if restored:
        say(
            f"{len(restored)} run directories made of the committed records in "
            f"{results_dir() / 'reproduced'}"
        )
    run_dirs = _run_dirs(args)
    with _bar("mirrored") as progress:
        count = mirror_quietly(run_dirs, full=args.full, progress=progress)
    if count is None:
        return 1
    states = Counter(RunDir(run_dir).state() for run_dir in run_dirs)
    found = ", ".join(f"{n} {state}" for state, n in states.items()) or "no runs"
    say(f"{count} of {len(run_dirs)} runs had something new ({found})")
    followed = catch_up(followers, run_dirs)
    return max(followed, _attach_weights(run_dirs) if args.weights else 0)


def _run_dirs(args: argparse.Namespace) -> list[Path]:
    folder = runs_dir()
    if args.specs:
        ids = {trial.id: None for spec in load_specs(args) for trial in spec.trials}
        return [folder / identity for identity in ids if (folder / identity).exists()]
    if not folder.exists():
        return []
    with os.scandir(folder) as entries:
        return [
            folder / name for name in sorted(entry.name for entry in entries if entry.is_dir())
        ]


def _attach_weights(run_dirs: list[Path]) -> int:
    from launch.tracking.mirror import TrackingError, attach_weights

    try:
        with _bar("weights exported") as progress:
            count = attach_weights(run_dirs, progress)
    except TrackingError as error:
        say(f"error: {error}")
        return 1
    say(f"the weights of {count} runs are new artifacts")
    return 0


@contextmanager
def _bar(what: str) -> Iterator[Progress]:
    """A progress bar on a terminal, else a line every few seconds; nothing where there is nothing
    to do.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        said = time.monotonic()

        def line(done: int, of: int) -> None:
            nonlocal said
            if time.monotonic() - said >= PLAIN_SECONDS:
                said = time.monotonic()
                print(f"{done} of {of} {what}", file=sys.stderr, flush=True)

        yield line
        return
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        task = bars.add_task(what, total=None)
        yield lambda done, of: bars.update(task, completed=done, total=of)
