"""`plan`: what a spec would run, and in which state each trial is."""

import argparse

from launch.commands import add_selection, load_specs, show
from launch.paths import runs_dir
from launch.plan import make_plan

HELP = "print the plan, as run --dry-run does"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_selection(parser)


def run(args: argparse.Namespace) -> int:
    show(make_plan(load_specs(args), runs_dir(), args.where), args.json)
    return 0
