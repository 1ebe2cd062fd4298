"""`plan`: what a spec would run, and in which state each trial is; or how many seeds its claims
need.
"""

import argparse

from launch.commands import add_selection, load_specs, show_plan
from launch.console import show as tell
from launch.errors import UsageError
from launch.paths import runs_dir
from launch.plan import make_plan

HELP = "print the plan, as run --dry-run does; or the seeds that claims need"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_selection(parser)
    parser.add_argument(
        "--seeds-for-power",
        type=float,
        metavar="POWER",
        help="with how many seeds each claim would hold with this probability (0.8), were the "
        "paper's numbers exactly right, in trials and GPU-hours",
    )
    parser.add_argument(
        "--spread",
        type=float,
        default=0.2,
        help="for that: the standard deviation of a cell over its seeds (default: 0.2)",
    )


def run(args: argparse.Namespace) -> int:
    specs = load_specs(args)
    if args.seeds_for_power is None:
        show_plan(make_plan(specs, runs_dir(), args.where), args.json)
        return 0
    if not 0 < args.seeds_for_power < 1 or args.spread <= 0:
        raise UsageError("--seeds-for-power lies between 0 and 1, and --spread above 0")
    from launch.commands._power import tell_seeds

    for spec in specs:
        for line in tell_seeds(spec, args.seeds_for_power, args.spread):
            tell(line)
    return 0
