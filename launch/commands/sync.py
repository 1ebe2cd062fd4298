"""`sync`: bring MLflow up to date with all run directories, whoever ran them."""

import argparse
from collections import Counter

from launch import rundir
from launch.commands import mirror_quietly, say
from launch.paths import runs_dir

HELP = "mirror all run directories into MLflow"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None: it is about everything there is."""


def execute(given: argparse.Namespace) -> int:
    run_dirs = sorted(entry for entry in runs_dir().iterdir() if entry.is_dir()) if runs_dir().exists() else []
    count = mirror_quietly(run_dirs)
    if count is None:
        return 1
    states = Counter(rundir.state(run_dir) for run_dir in run_dirs)
    found = ", ".join(f"{n} {state}" for state, n in states.items()) or "no runs"
    say(f"{count} of {len(run_dirs)} runs had something new ({found})")
    return 0
