"""The commands of `launch/run.py`, one module each: `HELP`, `add_arguments(parser)`,
`run(args) -> exit status`.

What several of them need is here: the arguments that choose trials, the specs they name, and how
things are said.
"""

import argparse
import difflib
import functools
import shlex
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from launch.console import counted, rich_console, say
from launch.errors import UsageError
from launch.paths import EXPERIMENTS, ROOT, tracking_uri, without_password
from launch.plan import Plan
from launch.search.state import whole
from launch.spec.grammar.overrides import is_setting
from launch.spec.load import Spec, SpecError, load_spec

SHOWN_REASONS = 4
"""Of how many trials a plan says what they wait for."""

_WHOLE = (("seed", 4), ("trial", 12), ("state", 11))
"""Columns of a plan that are never cut short, with their widths."""

_COLOURS = {
    "finished": "green",
    "failed": "red",
    "interrupted": "yellow",
    "running": "cyan",
    "waiting": "dim",
    "refused": "red",
    "stopped": "dim",
    "blocked": "red",
    "damaged": "red",
}


def add_selection(parser: argparse.ArgumentParser) -> None:
    """The arguments that choose trials: specs, and those of `add_filters`."""
    parser.add_argument(
        "specs",
        nargs="+",
        metavar="SPEC.yaml",
        help="specs; what is written as train.epochs=5 among them is a --set",
    )
    add_filters(parser)


def add_filters(parser: argparse.ArgumentParser) -> None:
    """The arguments that choose among the trials of specs; and --json."""
    parser.add_argument(
        "--profile", help="a smaller copy of the table that the spec describes, such as smoke"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a setting of all trials, e.g. train.epochs=5; they are other trials then, "
        "and not compared with the paper as equals",
    )
    parser.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="only these, e.g. backbone=resnet18",
    )
    parser.add_argument("--seeds", type=_seeds, help="other seeds than the spec's, e.g. 0,1")
    parser.add_argument("--json", action="store_true", help="print the trials as JSON")


def report_command(specs: Iterable[Spec]) -> str:
    """What shows the results of these specs, as they were asked for."""
    chosen = {spec.path: spec for spec in specs}
    here = Path.cwd()
    paths = [
        path.relative_to(here) if path.is_absolute() and path.is_relative_to(here) else path
        for path in chosen
    ]
    words = ["python", "analysis/report.py", *map(str, paths)]
    first = next(iter(chosen.values()))
    words += ["--profile", first.profile] if first.profile else []
    words += [word for setting in first.overrides for word in ("--set", setting)]
    return shlex.join(words)


def positive(text: str) -> int:
    """An argument's type: a whole number from 1 on."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 on, found '{text}'")
    return int(text)


def _seeds(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.isdigit() for part in parts) or len({int(part) for part in parts}) != len(
        parts
    ):
        raise argparse.ArgumentTypeError(
            f"must be different whole numbers with commas, such as 0,1,2; found '{text}'"
        )
    return [int(part) for part in parts]


def load_specs(args: argparse.Namespace, samples: bool = True) -> list[Spec]:
    """All specs named; with `samples`, a search's samples and winner are cells as well, as far as
    they are known.

    The mistakes of all specs are printed before the first one ends the command.
    """
    overrides = [*getattr(args, "set", ()), *filter(is_setting, args.specs)]
    names = [name for name in args.specs if not is_setting(name)]
    if not names:
        raise UsageError("name a spec beside what is to be set in it")
    specs, errors = [], []
    for name in names:
        try:
            spec = load_spec(find_spec(name), args.profile, args.seeds, overrides)
            specs.append(whole(spec) if samples else spec)
        except SpecError as error:
            errors.append(error)
    for earlier in errors[:-1]:
        print(earlier, file=sys.stderr)
    if errors:
        raise errors[-1]
    return specs


def find_spec(name: str) -> Path:
    """A path as it is, or from the repository's root, where the command is typed in another
    folder; UsageError for one that is not there, with what was probably meant.
    """
    path = Path(name)
    found = ROOT / path if not path.exists() and (ROOT / path).exists() else path
    if found.exists():
        return found
    raise UsageError(f"{name}: there is no such file{near_spec(name)}")


def near_spec(name: str) -> str:
    """The end of a sentence about a spec that is not there: "; did you mean ...?", else where
    specs are.
    """
    files = {path.stem: path for path in sorted(EXPERIMENTS.rglob("*.yaml"), reverse=True)}
    stem = Path(name).name.removesuffix(".yaml").removesuffix(".yml")
    here = Path(name).parent  # a spec of one's own: mine.yml for mine.yaml
    files |= {path.stem: path for path in sorted(here.glob("*.yaml")) if path.parent == here}
    close = difflib.get_close_matches(stem, files, n=1, cutoff=0.6)
    if not close:
        return f"; specs are in {EXPERIMENTS}"
    path = files[close[0]]
    shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    return f"; did you mean {shown}?"


def show_plan(plan: Plan, as_json: bool) -> None:
    """Print every trial with its state, and the sum."""
    if as_json:
        print(plan.to_json(values=True))
        return
    from rich.table import Column, Table
    from rich.text import Text

    from launch.backends import cpu_pace

    console = rich_console(width=None if sys.stdout.isatty() else 240)  # a pipe: whole lines
    whole = [Column(name, no_wrap=True, min_width=n) for name, n in _WHOLE]
    table = Table("spec", "row", *whole, box=None, header_style="bold", pad_edge=False)
    for use in plan.uses:
        colour = _COLOURS[use.state]
        table.add_row(
            Text(use.spec.title_name, no_wrap=True, overflow="ellipsis"),
            Text(use.row, no_wrap=True, overflow="ellipsis"),
            str(use.trial.seed),
            use.trial.id,
            f"[{colour}]{use.state}[/]",
        )
    console.print(table)
    console.print(_summary(plan), soft_wrap=True, markup=False)
    for refusal in plan.refusals():
        console.print(refusal, soft_wrap=True, markup=False)
    reasons = list(dict.fromkeys(use.reason for use in plan.uses if use.reason and use.can_run))
    for reason in reasons[:SHOWN_REASONS]:
        console.print(f"waiting: {reason}", soft_wrap=True, markup=False)
    if len(reasons) > SHOWN_REASONS:
        console.print(f"and {len(reasons) - SHOWN_REASONS} more that start from another trial")
    if (slow := cpu_pace.remark(use.trial for use in plan.to_run())) is not None:
        console.print(slow, soft_wrap=True, markup=False)


def _summary(plan: Plan) -> str:
    unique = plan.unique
    states = Counter(use.state for use in unique.values())
    shared = len(plan.uses) - len(unique)
    counts = ", ".join(
        f"{count} {state}{plan.origin() if state == 'finished' else ''}"
        for state, count in sorted(states.items())
    )
    epochs = sum(use.trial.epochs for use in plan.to_run())
    reuse = f" ({len(plan.uses)} cells × seeds, {shared} of them shared)" if shared else ""
    left = f"{counted(epochs, 'epoch')} to train{plan.outdated()}"
    return f"{counted(len(unique), 'trial')}{reuse}: {counts or 'none'}; {left}"


def mirror_quietly(run_dirs: list[Path], **options: Any) -> int | None:
    """None where the store cannot be reached: training goes on, and `sync` mirrors later. Options
    as of `tracking.mirror`.
    """
    from launch.tracking.mirror import UnreadableRun, mirror

    try:
        return mirror(run_dirs, **options)
    except UnreadableRun as error:
        _say_once(f"{error}; all others are mirrored")
        return None
    except Exception as error:  # whatever MLflow, its server or its database throws
        _say_once(
            without_password(
                f"the tracking store {tracking_uri()} cannot be written ({_root(error)}); "
                "nothing is lost: `python launch/run.py sync` mirrors it later"
            )
        )
        return None


@functools.cache
def _say_once(text: str) -> None:
    say(text)


def _root(error: BaseException) -> str:
    """The first line of what an error began with."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
