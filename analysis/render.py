"""Makes a whole report, then writes it: a mistake in the last spec leaves no half of one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.load import InputError, ReportData, load, tables_of
from analysis.paths import ROOT, results_dir
from launch.spec.load import Spec
from rm.files import write_atomically

if TYPE_CHECKING:
    from analysis.figure_cache import Look, RenderedFigure
    from analysis.table import Table

FORMATS = {"html": ".html", "md": ".md", "latex": ".tex", "csv": ".csv"}
KINDS = ("pdf", "png", "svg")
"""Of figures."""
NOTES = ROOT / "experiments" / "NOTES.md"


@dataclass(frozen=True)
class Report:
    """Everything that is to be written. figures: by the slug of their table."""

    data: ReportData
    tables: list["Table"]
    figures: dict[str, list["RenderedFigure"]]
    title: str
    stem: str


def make(
    specs: Sequence[Spec],
    uri: str,
    folder: Path,
    *,
    fresh: bool,
    reduced_if_committed: bool,
    look: "Look | None" = None,
) -> Report:
    """Read the records of these specs and work out all tables and figures; InputError says what
    cannot be had. `folder` is where the report, and what is kept of the store, will be.
    """
    from analysis.figure_cache import FigureRefused, Sources, render_figures

    data = load(specs, uri, folder / ".cache", fresh=fresh)
    tables = tables_of(data, reduced_if_committed=reduced_if_committed)
    figures: dict[str, list[RenderedFigure]] = {}
    for table in tables:
        if table.further:
            continue
        sources = Sources(data.curves_of(table), data.artifact)
        try:
            figures[table.slug] = render_figures(
                table, sources, folder, with_curves=len(specs) == 1, look=look
            )
        except FigureRefused as error:
            raise InputError(str(error)) from error
    several = len(specs) > 1
    title = "What is reproduced so far" if several else tables[0].spec.title
    return Report(data, tables, figures, title, "index" if several else tables[0].slug)


def write(
    report: Report, folder: Path, formats: Sequence[str], reload: float | None
) -> list[Path]:
    """Write what was asked for; returns the paths, the page first. A browser that reloads sees the
    old page or the new one.
    """
    from analysis import tables
    from analysis.figure_cache import write_figure

    folder.mkdir(parents=True, exist_ok=True)
    figures = [
        path
        for slug, some in report.figures.items()
        for figure in some
        for path in write_figure(figure, folder, slug)
    ]
    texts: dict[str, Callable[[Table], str]] = {
        "md": tables.to_markdown,
        "latex": tables.to_latex,
        "csv": tables.to_csv,
    }
    written: list[Path] = []
    for kind in formats:
        if kind == "html":
            page = folder / f"{report.stem}.html"
            write_atomically(page, _html(report, folder, reload))
            written.insert(0, page)
            continue
        for table in report.tables:
            written.append(folder / f"{table.slug}{FORMATS[kind]}")
            write_atomically(written[-1], texts[kind](table))
            if kind == "csv":
                written.append(folder / f"{table.slug}-seeds.csv")
                write_atomically(written[-1], tables.to_seeds_csv(table))
    return written + figures


def _html(report: Report, folder: Path, reload: float | None) -> str:
    from analysis.figure_cache import CURVES
    from analysis.page.html import to_html
    from analysis.page.view import View

    views = []
    for table in report.tables:
        drawings = [figure.drawing for figure in report.figures.get(table.slug, [])]
        named = {figure.name for figure in table.spec.figures}
        # Curves that no spec asked for are on the page already, to be unfolded.
        shown = [one for one in drawings if one.name != CURVES or CURVES in named]
        views.append(View(table, shown, report.data.curves_caption(table)))
    has_paper = any(view.table.spec.paper for view in views)
    return to_html(
        views,
        report.data.page_curves(report.tables),
        title=report.title,
        folder=folder,
        results=results_dir(),
        notes=NOTES.read_text(encoding="utf-8") if has_paper and NOTES.is_file() else "",
        reload=reload,
    )
