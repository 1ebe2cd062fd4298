"""`run`, the command that needs no name: run what is not finished yet, through a backend."""

import argparse
import functools
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from launch import console
from launch.backends import Backend, Limits, cpu_pace
from launch.backends.base import exit_status
from launch.backends.deadline import Deadline
from launch.backends.scheduling import longest_first
from launch.commands import add_selection, load_specs, positive, report_command, show_plan
from launch.commands._backend import add_backend_choice, chosen_backend
from launch.commands._damage import find_damaged, how_to_retry
from launch.commands._follow import add_followers, catch_up, followers_of
from launch.commands._mirroring import Mirroring, mirror_begun
from launch.console import say
from launch.errors import UsageError
from launch.paths import results_dir, runs_dir, tracking_is_on
from launch.plan import Plan, Planned, make_plan
from launch.runs import committed, folder
from launch.runs.create import prepare
from launch.runs.job import Outcome
from launch.runs.resources import differs
from launch.runs.rundir import RunDir
from launch.search.run import Searched, announce, carry_out, check
from launch.search.state import set_aside
from launch.spec.resources import incompatibility, parse
from launch.spec.spec import Spec
from launch.tracking.followers import Follower
from launch.worker import system_metrics

HELP = "run what is not finished yet"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_selection(parser)
    parser.add_argument("--dry-run", action="store_true", help="print the plan and do nothing")
    parser.add_argument(
        "--force",
        action="store_true",
        help="run finished trials again, those with committed records too; the former runs are "
        "kept in results/replaced",
    )
    add_backend_arguments(parser)


def add_backend_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that say where trials run and how many at a time."""
    parser.add_argument(
        "--workers",
        type=positive,
        help="trials at a time (default: one a GPU slot, or one a CPU core)",
    )
    parser.add_argument(
        "--trials-per-gpu",
        type=positive,
        default=1,
        help="trials side by side on one GPU (default: 1)",
    )
    parser.add_argument(
        "--gpus",
        type=parse,
        metavar="N|NODESxN",
        help="GPUs of each trial, instead of what its spec says: 8, or 2x4 on two nodes",
    )
    parser.add_argument(
        "--system-metrics",
        type=system_metrics.seconds,
        nargs="?",
        const=system_metrics.DEFAULT_SECONDS,
        metavar="SECONDS",
        help="sample processor, memory and GPUs while trials run (default: every 10 s), for "
        "MLflow's page of them",
    )
    parser.add_argument(
        "--deadline",
        type=Deadline.in_minutes,
        metavar="MINUTES",
        help="checkpoint and stop all before then, and start only what can still make progress",
    )
    add_followers(parser)
    add_backend_choice(parser)


def limits_of(args: argparse.Namespace) -> Limits:
    """How many trials are to run at a time."""
    return Limits(args.workers, args.trials_per_gpu, args.deadline)


def run(args: argparse.Namespace) -> int:
    backend = chosen_backend(args)
    system_metrics.ask(args.system_metrics)
    followers = followers_of(args)
    specs = load_specs(args)
    check(specs, backend)
    here = backend.runs_here
    plan = make_plan(specs, runs_dir(), args.where, data=here)
    if args.dry_run:
        show_plan(plan, args.json)
        announce(specs)
        return 0
    if plan.to_run() or any(spec.search for spec in specs):
        backend.check(limits_of(args))
    if args.force:
        _set_aside(plan)
    searched = Searched(specs, 0)
    if any(spec.search for spec in specs):
        searched = _searched(args, backend, followers)
        if searched.status == 130:
            return 130
    if args.force or searched.specs is not specs:
        plan = make_plan(searched.specs, runs_dir(), args.where, data=here)
    for refusal in plan.refusals():
        say(refusal)
    prepare_as_asked(plan.to_prepare(), args)
    ended = run_plan(plan, backend, limits_of(args), followers)
    if args.json:
        console.show(make_plan(load_specs(args), runs_dir(), args.where).to_json())
    status = exit_status(ended, limits_of(args)) or int(plan.has_damage())
    if status:
        return status
    return 3 if plan.refusals() else searched.status


def prepare_as_asked(uses: Sequence[Planned], args: argparse.Namespace) -> None:
    """Make the run directories; UsageError where `--gpus` does not fit what is to run."""
    for use in uses:
        why = (
            incompatibility(use.trial.values, args.gpus)
            if args.gpus and use.state != "finished"
            else None
        )
        if why:
            raise UsageError(f"--gpus {args.gpus.nodes}x{args.gpus.gpus}: {use.label}: {why}")
    prepare(uses, runs_dir(), args.gpus)
    asked = {
        use.trial.id: args.gpus or use.cell.resources
        for use in uses
        if use.state in ("interrupted", "failed")
    }
    kept = [
        identity
        for identity, resources in asked.items()
        if differs(runs_dir() / identity, resources)
    ]
    if kept:
        say(
            f"{len(kept)} of them have begun with another number of processes, and keep it (such "
            f"as {kept[0]})"
        )


def _searched(
    args: argparse.Namespace, backend: Backend, followers: Sequence[Follower]
) -> Searched:
    """The specs as they were written, those that search with what they found; --where is about
    rows and starts no search.
    """
    specs = load_specs(args, samples=False)
    if args.where:
        return Searched(specs, 0)
    if args.force:
        for spec in specs:
            set_aside(spec)
    mirroring = functools.partial(Mirroring, followers=followers)
    return carry_out(specs, mirroring, backend, limits_of(args))


def _set_aside(plan: Plan) -> None:
    """--force: a finished run moves to results/replaced, whole; nothing is deleted. A committed
    record stays what it is, and counts no more in this results folder.
    """
    records = committed.known(runs_dir())
    for identity, use in plan.unique.items():
        if use.state == "running":
            raise UsageError(
                f"trial {identity} is running; wait for it, or stop it, before --force"
            )
    for identity, use in plan.unique.items():
        if use.state != "waiting" and (runs_dir() / identity).exists():
            target = results_dir() / "replaced" / f"{identity}-{time.strftime('%Y%m%d-%H%M%S')}"
            target.parent.mkdir(parents=True, exist_ok=True)
            (runs_dir() / identity).rename(target)
        if identity in records:
            committed.train_again(runs_dir(), identity)


def run_plan(
    plan: Plan, backend: Backend, limits: Limits, followers: Sequence[Follower] = ()
) -> dict[Path, Outcome]:
    """Run what is to run, cancelled or not, mirroring as it goes; say at the end what happened and
    how to go on.
    """
    began, runs = time.monotonic(), runs_dir()
    to_run = {runs / use.trial.id: use for use in plan.to_run()}
    damaged = find_damaged(to_run.items())
    to_run = {run_dir: use for run_dir, use in to_run.items() if run_dir not in damaged}
    folder.map_io(lambda run_dir: RunDir(run_dir).clear_cancel(), list(to_run))
    everything = list(dict.fromkeys(runs / use.trial.id for use in plan.to_prepare()))
    if not to_run and not damaged:
        count = f"all {len(everything)} trials were" if len(everything) > 1 else "the trial was"
        say(f"{count} finished already{plan.origin()}")
        mirror_begun(everything)
        catch_up([each for each in followers if each.tells_the_past], everything)
        return {}
    if backend.name == "local" and (slow := cpu_pace.remark(u.trial for u in to_run.values())):
        say(slow)
    from launch.progress import ProgressWatcher  # loading rich is a sixth of what `status` costs

    watcher = ProgressWatcher(
        {path: use.label for path, use in to_run.items()},
        {path: use.trial.epochs for path, use in to_run.items()},
    )
    of, others = console.counted(len(everything), "trial"), len(everything) - len(to_run)
    say(f"running {len(to_run)} of {of}; {others} finished already{plan.origin()}")
    ended: dict[Path, Outcome]
    with Mirroring(watcher, everything, followers), watcher:
        ended = {**backend.run(longest_first(list(to_run)), watcher, limits), **damaged}
    specs = [use.spec for use in plan.uses]
    _say_how_it_ended(ended, specs, limits, time.monotonic() - began)
    return ended


def _say_how_it_ended(
    ended: Mapping[Path, Outcome], specs: Sequence[Spec], limits: Limits, seconds: float
) -> None:
    """What became of them, and how to go on."""
    outcomes = Counter(end.status for end in ended.values())
    say(
        f"{', '.join(f'{n} {word}' for word, n in outcomes.items())} in "
        f"{seconds:.1f} s"
        + ("" if tracking_is_on() else "; RM_TRACKING=off: reports see them after `sync`")
    )
    if outcomes["unsubmitted"]:
        say("what was not submitted has lost nothing: the same command submits it, once it may")
    elif outcomes["interrupted"]:
        over = limits.deadline is not None and limits.deadline.is_over()
        why = "the time is up" if over else "stopped"
        say(f"{why}; nothing is lost: the same command resumes from here")
    elif outcomes["failed"]:
        say(how_to_retry(ended))
    elif outcomes["submitted"] or outcomes["queued"]:
        say(
            "`python launch/run.py status SPEC.yaml` shows how they do; `sync` mirrors what is "
            "new into MLflow"
        )
    elif tracking_is_on() and set(outcomes) == {"finished"}:
        say(f"`{report_command(specs)}` shows what came out")
