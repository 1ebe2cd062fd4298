"""Render what the records say about specs: a table on the terminal, one HTML page, Markdown,
LaTeX, CSV and figures.

    python analysis/report.py experiments/table3.yaml [more specs] [--profile smoke]
    [--tracking-uri http://...] python analysis/report.py --all [--watch]

One spec's page bears its name, several stand together in index.html. --all takes every spec of
`experiments/`, and of their profiles those that committed records stand for. Exits with 2 where a
spec, a figure's options or the tracking store cannot be read; missing records are no error.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if (
    not __package__
):  # run as a script: this folder's module names (tables, page) must not stand on the path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from launch import interpreter

interpreter.check()

from analysis.load import Gathered, InputError, StoreAway, gather, tables_of  # noqa: E402
from analysis.paths import ROOT, find_spec_file, results_dir, tracking_uri, without_secrets  # noqa: E402
from launch.spec.load import Spec, SpecError, load_spec  # noqa: E402

if TYPE_CHECKING:
    from analysis.figure_cache import Plate
    from analysis.results import Table

FORMATS = {"html": ".html", "md": ".md", "latex": ".tex", "csv": ".csv"}
NOTES = ROOT / "experiments" / "NOTES.md"


@dataclass(frozen=True)
class Report:
    """Everything that is to be written, made before anything is."""

    gathered: Gathered
    tables: list["Table"]
    plates: dict[str, list["Plate"]]
    title: str
    stem: str


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = _arguments(argv)
    try:
        specs = _load_specs(options.specs, options.profile)
        if options.watch is None:
            _once(specs, options, None)
            return 0
        return _watch(specs, options)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _once(specs: Sequence[Spec], options: argparse.Namespace, reload: float | None) -> Report:
    """Render everything once: a mistake in the last spec leaves no half of a report."""
    report = _make(specs, options)
    if len(specs) == 1:
        _print(report.tables[0], tracking_uri(options.tracking_uri))
    else:
        _print_overview(report.tables)
    for path in _write(report, options, reload):
        print(f"wrote {_shown(path)}")
    return report


def _watch(specs: Sequence[Spec], options: argparse.Namespace) -> int:
    """Render again whenever the records have changed, until every trial has finished or Ctrl-C;
    the page reloads itself.

    A store that is away for a while is waited for; one that cannot be read at first is bad input.
    """
    seen, page, away = None, None, False
    try:
        while True:
            try:
                report = _make(specs, options)
                states = (
                    [table.records.to_csv() for table in report.tables],
                    report.gathered.read_curves(report.tables),
                )
            except StoreAway as error:
                if page is None:
                    raise
                if not away:
                    print(
                        f"{error}\nlooking again every {options.watch:g} s",
                        file=sys.stderr,
                        flush=True,
                    )
                away = True
                time.sleep(options.watch)
                continue
            away = False
            if states != seen:
                page, seen = _write(report, options, options.watch)[0], states
                done = sum(table.states["finished"] for table in report.tables)
                total = sum(sum(table.states.values()) for table in report.tables)
                print(
                    f"{time.strftime('%H:%M:%S')}  {done} of {total} finished, {_shown(page)}",
                    flush=True,
                )
                if done == total:
                    break
            time.sleep(options.watch)
    except KeyboardInterrupt:
        print()
    if page is not None:
        _write(report, options, None)  # a page that is not watched any more does not reload
    return 0


def _make(specs: Sequence[Spec], options: argparse.Namespace) -> Report:
    from analysis.figure_cache import PlateError, draw_plates

    gathered = gather(
        specs, tracking_uri(options.tracking_uri), options.output / ".cache", fresh=options.fresh
    )
    tables = tables_of(gathered, reduced_if_committed=options.all)
    plates: dict[str, list[Plate]] = {}
    for table in tables:
        if not table.further:
            limited = gathered.curves_of(table)
            try:
                plates[table.slug] = draw_plates(
                    table,
                    limited,
                    options.output,
                    with_curves=len(specs) == 1,
                    artifacts=gathered.artifact,
                )
            except PlateError as error:
                raise InputError(str(error)) from error
    several = len(specs) > 1
    title = "What is reproduced so far" if several else tables[0].spec.title
    return Report(gathered, tables, plates, title, "index" if several else tables[0].slug)


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
    parser.add_argument("--output", type=Path, metavar="DIR", help="default results/report")
    parser.add_argument(
        "--fresh", action="store_true", help="read the whole store again, whatever is kept of it"
    )
    parser.add_argument(
        "--watch", type=_seconds, nargs="?", const=10.0, metavar="SECONDS",
        help="go on while trials run: look every SECONDS (default 10), and let the page reload "
             "itself",
    )  # fmt: skip
    options = parser.parse_args(argv)
    if bool(options.specs) == options.all:
        parser.error("name one spec or more, or --all")
    if options.all:
        options.specs = sorted(map(str, (ROOT / "experiments").glob("*.yaml")))
    options.output = (options.output or results_dir() / "report").expanduser().resolve()
    return options


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"a number of seconds from 1 to 3600, found '{text}'")
    return seconds


def _formats(text: str) -> tuple[str, ...]:
    formats = tuple(part.strip() for part in text.split(",") if part.strip())
    unknown = [part for part in formats if part not in FORMATS]
    if unknown or not formats:
        raise argparse.ArgumentTypeError(
            f"unknown format '{', '.join(unknown) or text}'; valid: {', '.join(FORMATS)}"
        )
    return formats


def _load_specs(paths: Sequence[str], profile: str | None) -> list[Spec]:
    specs: dict[str, Spec] = {}
    errors = []
    for path in dict.fromkeys(find_spec_file(given) for given in paths):
        try:
            spec = load_spec(path, profile=profile)
        except SpecError as error:
            errors.append(str(error))
            continue
        if spec.name in specs:
            errors.append(
                f"{path}: another spec given is called '{spec.name}' too, and would be "
                f"overwritten: {specs[spec.name].path}"
            )
        specs[spec.name] = spec
    if errors:
        raise InputError("\n".join(errors))
    return list(specs.values())


def _print(table: "Table", uri: str) -> None:
    from rich.console import Console

    from analysis.tables import to_terminal

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, 160)  # a file or a pipe has no edge to wrap at
    console.print(to_terminal(table))
    if not table.states["finished"]:
        console.print(
            f"No finished trial in {without_secrets(uri)}. To run them: python launch/run.py "
            f"{_shown(table.spec.path)}",
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


def _write(report: Report, options: argparse.Namespace, reload: float | None) -> list[Path]:
    """Write all that was asked for; returns the paths, the page first."""
    from analysis import tables
    from analysis.figure_cache import write_plate

    folder: Path = options.output
    figures = [
        path
        for slug, some in report.plates.items()
        for plate in some
        for path in write_plate(plate, folder, slug)
    ]
    texts: dict[str, Callable[[Table], str]] = {
        "md": tables.to_markdown,
        "latex": tables.to_latex,
        "csv": tables.to_csv,
    }
    written: list[Path] = []
    for kind in options.format:
        if kind == "html":
            written.insert(0, _put(folder / f"{report.stem}.html", _html(report, folder, reload)))
        else:
            written += [
                _put(folder / f"{table.slug}{FORMATS[kind]}", texts[kind](table))
                for table in report.tables
            ]
    return written + figures


def _put(path: Path, text: str) -> Path:
    """Whole or not at all: a browser that reloads sees the old page or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
    return path


def _html(report: Report, folder: Path, reload: float | None) -> str:
    from analysis.figure_cache import CURVES
    from analysis.page.html import View, to_html

    views = []
    for table in report.tables:
        drawn = [plate.drawing for plate in report.plates.get(table.slug, [])]
        named = {figure.name for figure in table.spec.figures}
        shown = [drawing for drawing in drawn if drawing.name != CURVES or CURVES in named]
        views.append(View(table, shown, report.gathered.told_of_curves(table)))
    notes = (
        NOTES.read_text(encoding="utf-8")
        if NOTES.is_file() and any(v.table.spec.paper for v in views)
        else ""
    )
    return to_html(
        views, report.gathered.page_curves(report.tables),
        title=report.title, folder=folder, results=results_dir(), notes=notes, reload=reload,
    )  # fmt: skip


def _shown(path: Path) -> str:
    """A path as short as it can be typed from here."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


if __name__ == "__main__":
    sys.exit(main())
