"""`cancel`: stop trials, running ones after a checkpoint; `run` resumes them later."""

import argparse
import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from launch import backends
from launch.commands import add_filters, load_specs
from launch.commands._targets import find_run, is_spec
from launch.console import say
from launch.paths import runs_dir
from launch.plan import make_plan
from launch.runs.contents import why
from launch.runs.rundir import RunDir
from launch.runs.status import RunDirSnapshot, StatusReader, ask_schedulers
from launch.spec.grammar.overrides import is_setting

HELP = "stop trials: checkpoint those that run, take those that wait out of the queue"
ANSWER_SECONDS = 20.0
"""How long it waits for running trials to checkpoint and stop, to say so."""

_WORDS = {
    "finished": "finished already",
    "never": "was never started",
    "stopped": "checkpointed and stopped",
    "stopping": "asked to checkpoint and stop, which it does at its next step; `status` shows "
    "when it has",
    "ended": "finished before it could stop",
    "withdrawn": "taken out of the scheduler's queue",
    "left": "asked not to start: its job leaves it alone",
    "unheard": "asked not to start: its job leaves it alone when it starts; the scheduler could "
    "not be asked to drop it",
    "waiting": "will not start",
    "damaged": "is damaged, and does not start; `status` says where",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "targets",
        nargs="+",
        metavar="SPEC.yaml|TRIAL",
        help="specs, or trials by the start of their ids",
    )
    add_filters(parser)


def run(args: argparse.Namespace) -> int:
    run_dirs = _chosen(args)
    done = cancel(run_dirs)
    if args.json:
        print(
            json.dumps(
                {"trials": [{"id": name, "done": word} for name, word in done.items()]}, indent=1
            )
        )
        return 0
    for name, word in done.items():
        print(f"{name}: {_WORDS[word]}")
    if set(done.values()) - {"finished", "never"}:
        print("`python launch/run.py SPEC.yaml` resumes what was cancelled, from its checkpoint")
    return 0


def _chosen(args: argparse.Namespace) -> list[Path]:
    """The run directories of all targets, each once."""
    specs = [target for target in args.targets if is_spec(target) or is_setting(target)]
    chosen = [find_run(target) for target in args.targets if target not in specs]
    if specs:
        args.specs = specs
        plan = make_plan(
            load_specs(args),
            runs_dir(),
            args.where,
            StatusReader(runs_dir(), backends.get).state,
            data=False,
        )
        chosen += [runs_dir() / name for name in plan.unique]
    return list(dict.fromkeys(chosen))


def cancel(run_dirs: Iterable[Path]) -> dict[str, str]:
    """Cancel what can be; returns trial id -> a word of `_WORDS`.

    The request is written first: a job that starts while it is being withdrawn finds it.
    """
    reader = StatusReader(runs_dir(), backends.get)
    states = {run_dir: reader.state(run_dir) for run_dir in run_dirs}
    snapshots = {run_dir: reader.seen[run_dir] for run_dir in states if run_dir in reader.seen}
    unfinished = [
        run_dir for run_dir, snapshot in snapshots.items() if snapshot.state != "finished"
    ]
    for run_dir in unfinished:
        try:
            RunDir(run_dir).request_cancel()
        except OSError as error:  # the others are cancelled all the same
            say(f"{run_dir.name}: cannot be asked to stop: {why(error)}")
    withdrawn = _withdraw({run_dir: snapshots[run_dir] for run_dir in unfinished})
    done = {}
    for run_dir, state in states.items():
        if run_dir not in snapshots or state == "finished":
            done[run_dir] = "finished" if state == "finished" else "never"
        elif state in ("running", "damaged"):
            done[run_dir] = {"running": "stopping", "damaged": "damaged"}[state]
        else:
            done[run_dir] = withdrawn.get(run_dir, "waiting")
    _await({run_dir for run_dir, word in done.items() if word == "stopping"}, done)
    return {run_dir.name: word for run_dir, word in done.items()}


def _withdraw(snapshots: Mapping[Path, RunDirSnapshot]) -> dict[Path, str]:
    """Take jobs that wait out of their schedulers' queues; what starts meanwhile, or is shared
    with others, finds the request.
    """
    words = {
        run_dir: "left"
        for run_dir, job in ask_schedulers(snapshots, backends.get).items()
        if job.state != "gone"
    }
    by_backend: dict[str, list[Path]] = {}
    for run_dir in words:
        by_backend.setdefault(str((snapshots[run_dir].job or {})["backend"]), []).append(run_dir)
    for name, run_dirs in by_backend.items():
        try:
            backends.get(name).withdraw(run_dirs)
        except RuntimeError as error:
            say(f"{name}: {error}")
    after = ask_schedulers({run_dir: snapshots[run_dir] for run_dir in words}, backends.get)
    ends = {"gone": "withdrawn", "unknown": "unheard"}
    return {run_dir: ends.get(job.state, "left") for run_dir, job in after.items()}


def _await(stopping: set[Path], done: dict[Path, str]) -> None:
    deadline = time.monotonic() + ANSWER_SECONDS
    while stopping and time.monotonic() < deadline:
        time.sleep(0.2)
        for run_dir in list(stopping):
            state = RunDir(run_dir).state()
            if state != "running":
                done[run_dir] = "ended" if state == "finished" else "stopped"
                stopping.discard(run_dir)
