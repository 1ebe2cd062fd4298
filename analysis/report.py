"""Render what the records say about specs: a table on the terminal, one HTML page, Markdown, LaTeX, CSV and figures.

    python analysis/report.py experiments/table3.yaml [more specs] [--profile smoke] [--tracking-uri http://...]

Exits with 2 where a spec, a figure's options or the tracking store cannot be read; missing records are no error.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:  # run as a script: this folder's module names (tables, page) must not stand on the path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from analysis.paths import find_spec_file, results_dir, tracking_uri, without_secrets
from launch.spec import Spec, SpecError, load_spec

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from analysis.results import Table

FORMATS = {"html": ".html", "md": ".md", "latex": ".tex", "csv": ".csv"}
CURVES = "learning_curves"


@dataclass(frozen=True)
class Plate:
    """A drawn figure, not yet saved: its name, what it shows and the numbers in it."""

    name: str
    caption: str
    figure: "Figure"
    data: "pd.DataFrame"


class InputError(Exception):
    """Something that was asked for cannot be had: the message is printed and the command exits with 2."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = _arguments(argv)
    try:
        specs = _load_specs(options.specs, options.profile)
        uri = tracking_uri(options.tracking_uri)
        records = _load_records(specs, uri)
        # Everything is drawn before anything is written: a mistake in the last spec leaves no half of a report.
        reports = [_draw(spec, records, uri) for spec in specs]
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    for table, plates in reports:
        _print(table, uri)
        for path in _write(table, plates, options.output, options.format):
            print(f"wrote {_shown(path)}")
    return 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="report.py", description="Render what the records say about specs.")
    parser.add_argument(
        "specs", nargs="+", metavar="SPEC", help="a YAML file; tried from here, then from the repository's root"
    )
    parser.add_argument("--profile", help="the smaller copy of that name; labelled so everywhere")
    parser.add_argument(
        "--tracking-uri", metavar="URI", help="MLflow store; default $MLFLOW_TRACKING_URI or results/mlflow.db"
    )
    parser.add_argument(
        "--format", type=_formats, default=tuple(FORMATS), help=f"any of {','.join(FORMATS)}; default all"
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="default results/report")
    options = parser.parse_args(argv)
    options.output = (options.output or results_dir() / "report").expanduser().resolve()
    return options


def _formats(text: str) -> tuple[str, ...]:
    formats = tuple(part.strip() for part in text.split(",") if part.strip())
    unknown = [part for part in formats if part not in FORMATS]
    if unknown or not formats:
        raise argparse.ArgumentTypeError(f"unknown format '{', '.join(unknown) or text}'; valid: {', '.join(FORMATS)}")
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
                f"{path}: another spec given is called '{spec.name}' too, and would be overwritten: {specs[spec.name].path}"
            )
        specs[spec.name] = spec
    if errors:
        raise InputError("\n".join(errors))
    return list(specs.values())


def _load_records(specs: Sequence[Spec], uri: str) -> "pd.DataFrame":
    from analysis.records import RecordsError, load_records

    try:
        return load_records({trial.id for spec in specs for cell in spec.cells for trial in cell.trials}, uri)
    except RecordsError as error:
        raise InputError(str(error)) from error


def _draw(spec: Spec, records: "pd.DataFrame", uri: str) -> tuple["Table", list[Plate]]:
    """The table of a spec and its figures; the learning curves come last, unless the spec asks for them or nothing ran."""
    from analysis import figures
    from analysis.records import RecordsError, load_curves
    from analysis.results import collect

    table = collect(spec, records)
    loaded: dict[str, pd.DataFrame] = {}

    def curves(metric: str) -> "pd.DataFrame":
        if metric not in loaded:
            try:
                loaded[metric] = load_curves(list(table.records["run_id"]), metric, uri)
            except RecordsError as error:
                raise InputError(str(error)) from error
        return loaded[metric]

    wanted: list[tuple[str, str, dict[str, Any]]] = [(f.name, f.draw, dict(f.options)) for f in spec.figures]
    metric = f"test_{spec.metric.name}"
    if CURVES not in [draw for _, draw, _ in wanted] and len(curves(metric)):
        wanted.append((CURVES, CURVES, {"metric": metric}))
    plates = []
    for name, draw, options in wanted:
        try:
            figure, data = figures.render(draw, spec, table.records, curves, options)
        except figures.FigureError as error:
            raise InputError(f"{spec.path}: figure '{name}': {error}") from error
        caption = (figures.load(draw).__doc__ or "").strip().splitlines()[0]
        plates.append(Plate(name, caption, figure, data))
    return table, plates


def _print(table: "Table", uri: str) -> None:
    from rich.console import Console

    from analysis.tables import to_terminal

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, 160)  # a file or a pipe has no edge to wrap at
    console.print(to_terminal(table))
    if not table.states["finished"]:
        console.print(
            f"No finished trial in {without_secrets(uri)}. To run them: python launch/run.py {_shown(table.spec.path)}",
            soft_wrap=True,
        )


def _write(table: "Table", plates: Sequence[Plate], folder: Path, formats: Sequence[str]) -> list[Path]:
    """Write all that was asked for; returns the paths, the page first."""
    from analysis import figures, tables

    paths = []
    drawings = []
    for plate in plates:
        saved = figures.save(plate.figure, plate.data, folder / table.slug, plate.name)
        paths += saved
        drawings.append((plate, tuple(path.relative_to(folder).as_posix() for path in saved)))
    texts: dict[str, Callable[[Table], str]] = {
        "md": tables.to_markdown,
        "latex": tables.to_latex,
        "csv": tables.to_csv,
        "html": lambda t: _html(t, drawings, folder),
    }
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for kind in formats:
        written.append(folder / f"{table.slug}{FORMATS[kind]}")
        partial = written[-1].with_name(f".{written[-1].name}.partial")
        partial.write_text(texts[kind](table), encoding="utf-8")
        partial.replace(written[-1])  # a browser that reloads sees the old page or the new one
    return written + paths


def _html(table: "Table", drawings: Sequence[tuple[Plate, tuple[str, ...]]], folder: Path) -> str:
    from analysis.figures import inline_svg
    from analysis.page import Drawing, to_html

    shown = [
        Drawing(plate.name, plate.caption, inline_svg(plate.figure, f"{table.slug}-{plate.name}", plate.caption), files)
        for plate, files in drawings
    ]
    on_click = [drawing for drawing in shown if drawing.name == CURVES]
    at_once = [drawing for drawing in shown if drawing.name != CURVES]
    return to_html(table, at_once, on_click[0] if on_click else None, folder=folder, results=results_dir())


def _shown(path: Path) -> str:
    """A path as short as it can be typed from here."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


if __name__ == "__main__":
    sys.exit(main())
