"""`doctor`: look whether this machine, and a cluster, can do what the launcher needs; each line
says ok, or what to do.
"""

import argparse
import json
from collections.abc import Iterator
from typing import Any

from launch.backends import Backend, checks, cpu_pace
from launch.backends.checks import Check
from launch.commands import load_specs
from launch.commands._backend import add_backend_choice, chosen_backend
from launch.console import has_colours
from launch.errors import UsageError
from launch.gpus import visible_gpus

HELP = "check this machine, and a cluster, for what the launcher needs"
_WORDS = {"ok": "ok   ", "note": "note ", "wrong": "WRONG"}
_ANSI = {"ok": 32, "note": 33, "wrong": 31}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "specs",
        nargs="*",
        metavar="SPEC.yaml",
        help="look for the data of these (default: tell which data sets are here)",
    )
    parser.add_argument("--profile", help="a smaller copy of the tables, such as smoke")
    parser.add_argument(
        "--submit",
        action="store_true",
        help="also submit a job of about 20 s that tests a node: signals, requeue, shared files, "
        "Python, GPUs",
    )
    parser.add_argument("--json", action="store_true", help="print what was found as JSON")
    parser.set_defaults(seeds=None)
    add_backend_choice(parser)


def run(args: argparse.Namespace) -> int:
    """Exit status 1 where something is wrong."""
    backend = chosen_backend(args)
    specs = load_specs(args) if args.specs else []
    if args.submit and not backend.has_scheduler:
        raise UsageError(
            f"--submit tests a node through a scheduler; --backend {args.backend} has none"
        )
    data = checks.data_sets_of(trial for spec in specs for trial in spec.trials)
    found = []
    for check in _all(backend, data, args.submit):
        found.append(check)
        if not args.json:
            print(_line(check), flush=True)
    if args.json:
        print(
            json.dumps(
                {"checks": [check._asdict() for check in found]}, indent=1, ensure_ascii=False
            )
        )
    return int(any(check.level == "wrong" for check in found))


def _all(backend: Backend, data: dict[str, Any], submit: bool) -> Iterator[Check]:
    yield from checks.here(data or checks.all_data_sets(), wanted=bool(data))
    if not visible_gpus():
        yield cpu_pace.check()
    yield from backend.diagnose(submit=submit)


def _line(check: Check) -> str:
    word = _WORDS[check.level]
    word = f"\x1b[{_ANSI[check.level]}m{word}\x1b[0m" if has_colours() else word
    return f"{word}  {check.what:<16} {check.finding}"
