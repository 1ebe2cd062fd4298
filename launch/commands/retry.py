"""`retry`: run what failed or was lost again, and nothing else; through any backend."""

import argparse
from collections import Counter
from pathlib import Path

from launch import backends, console
from launch.backends.base import exit_status
from launch.commands import add_selection, load_specs, show_plan
from launch.commands._backend import chosen_backend
from launch.commands._damage import REMEDY
from launch.commands._follow import followers_of
from launch.commands.run import (
    add_backend_arguments,
    limits_of,
    prepare_as_asked,
    run_plan,
)
from launch.commands.status import Row, rows_of, to_json
from launch.console import say
from launch.paths import runs_dir
from launch.plan import Plan, make_plan
from launch.runs.job import Outcome
from launch.runs.status import StatusReader
from launch.search.state import samples_of
from launch.worker import system_metrics

HELP = "run failed and lost trials again"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_selection(parser)
    parser.add_argument(
        "--dry-run", action="store_true", help="print what would be tried again and do nothing"
    )
    add_backend_arguments(parser)


def run(args: argparse.Namespace) -> int:
    backend = chosen_backend(args)
    system_metrics.ask(args.system_metrics)
    followers = followers_of(args)
    rows = _look(args, backend.runs_here)
    ended: dict[Path, Outcome] = {}
    wrong = [
        row.use for row in rows if row.state in ("failed", "lost") and row.use.state != "refused"
    ]
    samples = samples_of(load_specs(args))
    chosen = [use for use in wrong if use.trial.id not in samples]
    if len(chosen) < len(wrong):
        left = len({use.trial.id for use in wrong} & samples)
        say(
            f"{left} are samples of a search, which tries them again itself (`run`), as long as "
            "it has no winner"
        )
    if chosen:
        counts = Counter(
            {
                row.use.trial.id: row.state for row in rows if row.use.trial.id not in samples
            }.values()
        )
        if args.dry_run:
            show_plan(Plan(tuple(chosen)), args.json)
            return 0
        backend.check(limits_of(args))
        say(f"{counts['failed']} failed and {counts['lost']} lost are tried again")
        prepare_as_asked(chosen, args)
        ended = run_plan(Plan(tuple(chosen)), backend, limits_of(args), followers)
    damaged = {row.use.label: row.status.note for row in rows if row.state == "damaged"}
    for label, reason in damaged.items():
        say(f"{label}: damaged: {reason}; {REMEDY}")
    if not wrong and not damaged:
        say(
            "nothing has failed and nothing is lost; what is waiting or interrupted resumes with "
            "`run`"
        )
    if args.json:
        again = {use.trial.id for use in chosen}
        rows = _look(args, backend.runs_here)
        console.show(to_json([row for row in rows if row.use.trial.id in again]))
    return exit_status(ended, limits_of(args)) or int(bool(damaged))


def _look(args: argparse.Namespace, here: bool) -> list[Row]:
    reader = StatusReader(runs_dir(), backends.get)
    plan = make_plan(load_specs(args), runs_dir(), args.where, reader.state, data=here)
    return rows_of(plan, reader)
