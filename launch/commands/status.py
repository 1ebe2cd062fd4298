"""`status`: the state of every trial of specs, read from their run directories."""

import argparse

from launch.commands import add_selection
from launch.commands.plan import execute as execute

HELP = "print the state of every trial"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_selection(parser)
