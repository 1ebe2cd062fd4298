"""Render what the records say about specs: a table on the terminal, one HTML page, Markdown,
LaTeX, CSV and figures.

    python analysis/report.py experiments/table3.yaml [more specs] [--profile smoke]
    python analysis/report.py --all [--watch] [--tracking-uri http://...]

One spec's page bears its name, several stand together in index.html. --all takes every spec of
`experiments/`, and of their profiles those that committed records stand for. Exits with 2 where a
spec, a figure's options or the tracking store cannot be read; missing records are no error.
"""

import argparse
import contextlib
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if (
    not __package__
):  # run as a script: this folder's module names (tables, page) must not stand on the path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from launch import console, interpreter

interpreter.check()

from analysis.load import InputError, StoreAway  # noqa: E402
from analysis.paths import (  # noqa: E402
    ROOT,
    find_spec_file,
    results_dir,
    tracking_uri,
    without_secrets,
)
from analysis.render import FORMATS, KINDS, Report, make, write  # noqa: E402
from launch.spec.load import Spec, SpecError, load_spec  # noqa: E402

if TYPE_CHECKING:
    from analysis.table import Table


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    if argv is None:
        console.prepare()
    args = _arguments(argv)
    try:
        specs = _load_specs(args.specs, args.profile, args.set)
        (_once if args.watch is None else _watch)(specs, args)
        sys.stdout.flush()
    except InputError as error:
        console.say(str(error))
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        if not console.reader_is_gone():
            raise
        console.drop_output()  # `| head` has seen enough; the files are written by now
    return 0


def _once(specs: Sequence[Spec], args: argparse.Namespace) -> None:
    report = _make(specs, args)
    written = write(report, args.output, args.format, None)
    if len(specs) == 1:
        _print(report.tables[0], tracking_uri(args.tracking_uri))
    else:
        _print_overview(report.tables)
    for path in written:
        print(f"wrote {_relative(path)}")


def _make(specs: Sequence[Spec], args: argparse.Namespace) -> Report:
    uri = tracking_uri(args.tracking_uri)
    from analysis.figure_cache import Look

    return make(
        specs,
        uri,
        args.output,
        fresh=args.fresh,
        reduced_if_committed=args.all,
        look=Look(args.figure_width, args.figure_formats),
    )


def _watch(specs: Sequence[Spec], args: argparse.Namespace) -> None:
    """Render again whenever the records have changed, until every trial has finished or Ctrl-C;
    the page reloads itself.

    A store that is away for a while is waited for; one that cannot be read at first is bad input.
    """
    previous, report, is_away = None, None, False
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            try:
                latest = _make(specs, args)
                states = _states(latest)
            except StoreAway as error:
                if report is None:
                    raise
                if not is_away:
                    print(error, file=sys.stderr)
                    print(f"looking again every {args.watch:g} s", file=sys.stderr, flush=True)
                is_away = True
                time.sleep(args.watch)
                continue
            is_away = False
            if states != previous:
                report, previous = latest, states
                page = write(report, args.output, args.format, args.watch)[0]
                done, total = _progress(report.tables)
                now = time.strftime("%H:%M:%S")
                print(f"{now}  {done} of {total} finished, {_relative(page)}", flush=True)
                if done == total:
                    break
            time.sleep(args.watch)
    if report is not None:
        write(report, args.output, args.format, None)  # nobody watches it any more: no reloading


def _states(report: Report) -> tuple[list[str], int]:
    """What changes when there is anything new to show."""
    records = [table.records.to_csv() for table in report.tables]
    return records, report.data.read_curves(report.tables)


def _progress(tables: Sequence["Table"]) -> tuple[int, int]:
    done = sum(table.states["finished"] for table in tables)
    return done, sum(sum(table.states.values()) for table in tables)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="report.py", description="Render what the records say about specs."
    )
    parser.add_argument(
        "specs",
        nargs="*",
        metavar="SPEC",
        help="a YAML file; tried from here, then from the repository's root",
    )
    parser.add_argument("--all", action="store_true", help="every spec of experiments/")
    parser.add_argument("--profile", help="the smaller copy of that name; labelled so everywhere")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="as `run` was given it, e.g. train.epochs=5; labelled so everywhere",
    )
    parser.add_argument(
        "--tracking-uri",
        metavar="URI",
        help="MLflow store; default $MLFLOW_TRACKING_URI or results/mlflow.db",
    )
    parser.add_argument(
        "--format",
        type=_formats,
        default=tuple(FORMATS),
        help=f"any of {','.join(FORMATS)}; default all",
    )
    _add_figures(parser)
    parser.add_argument("--output", type=Path, metavar="DIR", help="default results/report")
    parser.add_argument(
        "--fresh", action="store_true", help="read the whole store again, whatever is kept of it"
    )
    parser.add_argument(
        "--watch",
        type=_seconds,
        nargs="?",
        const=10.0,
        metavar="SECONDS",
        help="go on while trials run: look every SECONDS (default 10), and let the page reload",
    )
    args = parser.parse_args(argv)
    if bool(args.specs) == args.all:
        parser.error("name one spec or more, or --all")
    if args.all:
        args.specs = sorted(map(str, (ROOT / "experiments").rglob("*.yaml")), key=_natural)
    args.output = (args.output or results_dir() / "report").expanduser().resolve()
    return args


def _add_figures(parser: argparse.ArgumentParser) -> None:
    """The arguments on how figures are to be."""
    parser.add_argument(
        "--figure-width",
        type=_inches,
        metavar="INCHES",
        help="of all figures, as a column of a paper is wide, e.g. 5.5; text keeps its size",
    )
    parser.add_argument(
        "--figure-formats",
        type=_kinds,
        default=KINDS,
        help=f"of figures, any of {','.join(KINDS)}; default all",
    )


def _natural(path: str) -> tuple[int, list[tuple[int, str]]]:
    """Folders after files, and table2 before table10."""
    parts = re.findall(r"\d+|\D+", Path(path).stem)
    return len(Path(path).parts), [(int(p), "") if p.isdigit() else (-1, p) for p in parts]


def _number(text: str, most: float, what: str) -> float:
    """An argument's type: a number from 1 on."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 1 <= number <= most:
        raise argparse.ArgumentTypeError(f"a number of {what} from 1 to {most:g}, found '{text}'")
    return number


def _seconds(text: str) -> float:
    return _number(text, 3600, "seconds")


def _inches(text: str) -> float:
    return _number(text, 40, "inches")


def _formats(text: str) -> tuple[str, ...]:
    return _some_of(tuple(FORMATS), text)


def _kinds(text: str) -> tuple[str, ...]:
    return _some_of(KINDS, text)


def _some_of(valid: tuple[str, ...], text: str) -> tuple[str, ...]:
    formats = tuple(part.strip() for part in text.split(",") if part.strip())
    unknown = [part for part in formats if part not in valid]
    if unknown or not formats:
        raise argparse.ArgumentTypeError(
            f"unknown format '{', '.join(unknown) or text}'; valid: {', '.join(valid)}"
        )
    return formats


def _load_specs(paths: Sequence[str], profile: str | None, overrides: Sequence[str]) -> list[Spec]:
    specs: dict[str, Spec] = {}
    errors = []
    for path in dict.fromkeys(find_spec_file(typed) for typed in paths):
        try:
            spec = load_spec(path, profile, overrides=overrides)
        except SpecError as error:
            errors.append(str(error))
            continue
        if spec.name in specs:
            errors.append(
                f"{path}: another spec is called '{spec.name}' too, and would be "
                f"overwritten: {specs[spec.name].path}"
            )
        specs[spec.name] = spec
    if errors:
        raise InputError("\n".join(errors))
    return list(specs.values())


def _print(table: "Table", uri: str) -> None:
    from analysis.tables import to_terminal

    screen = console.rich_console()
    if not screen.is_terminal:
        screen.width = max(screen.width, 160)  # a file or a pipe has no edge to wrap at
    screen.print(to_terminal(table))
    if not table.states["finished"]:
        screen.print(
            f"No finished trial in {without_secrets(uri)}. To run them: python launch/run.py "
            f"{_relative(table.spec.path)}",
            soft_wrap=True,
        )


def _print_overview(tables: Sequence["Table"]) -> None:
    """A line for each table: what is finished, and the words on its cells."""
    for table in tables:
        done, total = table.states["finished"], sum(table.states.values())
        words = (
            ", ".join(f"{n} {word}" for word, n in table.verdicts.most_common())
            if table.has_published
            else ""
        )
        print(f"{table.slug:24} {done:5} of {total:<5} finished   {words}".rstrip())


def _relative(path: Path) -> str:
    """A path as short as it can be typed from here."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


if __name__ == "__main__":
    sys.exit(main())
