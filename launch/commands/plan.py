"""`plan`: what a spec would run, in which state each trial is, and when so many GPUs would be
done; or how many seeds its claims need.
"""

import argparse

from launch.commands import add_selection, load_specs, positive, show_plan
from launch.commands._forecast import span, tell_forecast
from launch.console import show as tell
from launch.errors import UsageError
from launch.paths import runs_dir
from launch.plan import make_plan

HELP = (
    "print the plan, as run --dry-run does; when it would be done; or the seeds that claims need"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_selection(parser)
    parser.add_argument(
        "--gpus",
        type=positive,
        metavar="N",
        help="say when it would be done on so many GPUs, and in how many GPU-hours",
    )
    parser.add_argument(
        "--preempt-every",
        type=span,
        metavar="TIME",
        help="for that: they are taken away every 6h, 90m or 2d",
    )
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
    if args.preempt_every and not args.gpus:
        raise UsageError("--preempt-every goes with --gpus N")
    if args.seeds_for_power is None:
        plan = make_plan(specs, runs_dir(), args.where)
        show_plan(plan, args.json)
        if args.gpus and not args.json:
            for line in tell_forecast(plan, runs_dir(), args.gpus, args.preempt_every):
                tell(line)
        return 0
    if not 0 < args.seeds_for_power < 1 or args.spread <= 0:
        raise UsageError("--seeds-for-power lies between 0 and 1, and --spread above 0")
    from launch.commands._power import tell_seeds

    for spec in specs:
        for line in tell_seeds(spec, args.seeds_for_power, args.spread):
            tell(line)
    return 0
