"""What `launch/run.py` understands: the commands in `launch/commands/`, found by their files."""

import argparse
import difflib
import importlib
import keyword
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from launch import console
from launch.commands import near_spec
from launch.errors import FilterError, UsageError
from launch.paths import ensure_home
from launch.spec.grammar.overrides import is_setting
from launch.spec.load import SpecError
from rm import registry

FIRST = ("run", "plan", "status")
"""The commands that `--help` names first; the others follow by alphabet."""
STOPPED = 130
"""Exit status of a command that Ctrl-C ended."""


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
    try:
        if words and words[0] not in (*commands(), "-h", "--help"):
            _check_first(words[0])
            words.insert(0, "run")
        if arguments is None:
            console.prepare()
            ensure_home()
            if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:  # see launch/run.py
                signal.signal(signal.SIGINT, signal.default_int_handler)
        args = _parse(words or ["--help"])
        status = int(args.function(args))
        sys.stdout.flush()
        return status
    except SpecError as error:
        print(error, file=sys.stderr)
    except (FilterError, UsageError, registry.RegistryError) as error:
        console.say(f"error: {error}")
    except KeyboardInterrupt:
        console.say("stopped; nothing is lost: the same command resumes from here")
        return STOPPED
    except OSError as error:
        return _failed(error)
    return 2


def _check_first(word: str) -> None:
    """UsageError for a first word that is neither an option nor a file, where it looks like a
    command mistyped.
    """
    if word.startswith("-") or "." in word or "/" in word or Path(word).exists():
        return
    near = near_spec(word)
    if close := difflib.get_close_matches(word, commands(), n=1, cutoff=0.6):
        near = f"; did you mean '{close[0]}'?"
    elif "did you mean" not in near:
        near = f"; commands: {', '.join(commands())}"
    raise UsageError(f"'{word}' is no command, and no file{near}")


def _parse(words: Sequence[str]) -> argparse.Namespace:
    """`train.epochs=5` anywhere among the words is a --set; what is not known ends with the usage
    of the command that was asked for.
    """
    args, rest = _parser(words[0]).parse_known_args(words)
    if hasattr(args, "set") and hasattr(args, "profile"):
        args.set += filter(is_setting, rest)
        rest = [word for word in rest if not is_setting(word)]
    if rest:
        known = [word for action in args.parser._actions for word in action.option_strings]
        close = difflib.get_close_matches(rest[0], known, n=1, cutoff=0.6)
        near = f"; did you mean '{close[0]}'?" if close else ""
        args.parser.error(f"does not know {' '.join(rest)}{near}")
    return args


def _failed(error: OSError) -> int:
    """What a disk, or a pipe, did not do; in one sentence."""
    if isinstance(error, BrokenPipeError) and console.reader_is_gone():
        console.drop_output()  # `| head` has seen enough; any other pipe is a failure
        return 0
    where = f"{error.filename}: " if error.filename else ""
    console.say(f"error: {where}{error.strerror or error}; what is on the disk stays as it is")
    return 1


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
        command.set_defaults(function=module.run, parser=command)
        module.add_arguments(command)
    return parser
