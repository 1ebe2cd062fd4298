"""Which backend the command line means: the one it names, or the one whose options it uses."""

import argparse
from collections.abc import Mapping
from typing import NamedTuple

from launch import backends
from launch.backends import Backend
from launch.commands._environment import check_environment
from launch.console import say
from launch.errors import UsageError
from rm.registry import suggestion

DEFAULT = "local"


class Option(NamedTuple):
    """An option of a backend: how it is typed, and its value where it is not."""

    typed: str
    default: object


def add_backend_choice(parser: argparse.ArgumentParser) -> None:
    """--backend, and each backend's own arguments."""
    parser.add_argument(
        "--backend",
        help=f"one of {', '.join(backends.NAMES)} (default: the one whose options are used, else "
        f"{DEFAULT})",
    )
    options: dict[str, dict[str, Option]] = {}
    for name in backends.NAMES:
        group = parser.add_argument_group(f"--backend {name}")
        backends.get(name).add_arguments(group)
        options[name] = {
            action.dest: Option(action.option_strings[0], action.default)
            for action in group._group_actions
        }
    parser.set_defaults(backend_options=options)


def chosen_backend(args: argparse.Namespace) -> Backend:
    """The backend with its settings; UsageError for options of another one, which would do
    nothing.
    """
    check_environment()
    used = _used(args, args.backend_options)
    if args.backend is None:
        args.backend = _implied(used)
    elif args.backend not in backends.NAMES:
        raise UsageError(
            f"unknown backend '{args.backend}'{suggestion(args.backend, backends.NAMES)}"
        )
    foreign = {typed: name for typed, name in used.items() if name != args.backend}
    if args.backend == "ray" and "--on-slurm" in used:  # whose job has the site's settings
        foreign = {typed: name for typed, name in foreign.items() if name != "slurm"}
    if foreign:
        typed, name = next(iter(foreign.items()))
        raise UsageError(
            f"{typed} is an option of --backend {name}; --backend {args.backend} has none such"
        )
    backend = backends.get(args.backend).from_args(args)
    if getattr(args, "deadline", None) and not backend.keeps_deadlines:
        raise UsageError(
            "--deadline is for backends that stay until all has ended; a job's limit is "
            "--slurm time=HH:MM:SS, and it is resumed after each"
        )
    return backend


def _used(args: argparse.Namespace, options: Mapping[str, Mapping[str, Option]]) -> dict[str, str]:
    """The options that were given -> whose they are."""
    return {
        option.typed: name
        for name, known in options.items()
        for dest, option in known.items()
        if getattr(args, dest) != option.default
    }


def _implied(used: Mapping[str, str]) -> str:
    names = set(used.values())
    if names == {"ray", "slurm"} and "--on-slurm" in used:
        names = {"ray"}
    if len(names) > 1:
        raise UsageError(
            f"{' and '.join(used)} are of different backends: name the one that is meant by "
            "--backend"
        )
    if not names:
        return DEFAULT
    (name,) = names
    say(f"{next(iter(used))} is an option of --backend {name}, which it chooses")
    return name
