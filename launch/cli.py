"""What `launch/run.py` understands: the commands in `launch/commands/`, found by their files."""

import argparse
import importlib
import keyword
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from launch.errors import FilterError, UsageError
from launch.spec.load import SpecError
from rm import registry

FIRST = ("run", "plan", "status")
"""The commands that `--help` names first; the others follow by alphabet."""


def commands() -> list[str]:
    """By their files; `import`, which no module can be called, is import_.py."""
    files = (Path(__file__).parent / "commands").glob("[!_]*.py")
    found = sorted(path.stem.removesuffix("_") for path in files)
    return [*FIRST, *(name for name in found if name not in FIRST)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0 all finished, 1 something failed, 2 bad input, 3 something was refused, 75
    stopped at --deadline, 130 stopped by Ctrl-C.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and words[0] not in (*commands(), "-h", "--help"):
        words.insert(0, "run")
    args = _parser(words[0] if words else "--help").parse_args(words or ["--help"])
    try:
        return int(args.function(args))
    except SpecError as error:
        print(error, file=sys.stderr)
    except (FilterError, UsageError, registry.RegistryError) as error:
        print(f"error: {error}", file=sys.stderr)
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return 2


def _parser(asked: str) -> argparse.ArgumentParser:
    """Knows the command that is asked for, so that `status` need not load what runs things; for
    --help all of them.
    """
    parser = argparse.ArgumentParser(
        prog="launch/run.py",
        description="Run the trials of specs, one file a table or figure of the paper. Without a "
        "command: run.",
    )
    choices = parser.add_subparsers(required=True, metavar="{" + ",".join(commands()) + "}")
    for name in commands() if asked.startswith("-") else [asked]:
        file = f"{name}_" if keyword.iskeyword(name) else name
        module = importlib.import_module(f"launch.commands.{file}")
        command = choices.add_parser(name, help=module.HELP, description=module.__doc__)
        command.set_defaults(function=module.run)
        module.add_arguments(command)
    return parser
