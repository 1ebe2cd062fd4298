"""The figures of a spec: drawn once, written beside the page, and drawn again only when something
in them can have changed.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from analysis.page.view import Drawing
from launch.spec import figures as signatures

if TYPE_CHECKING:
    import pandas as pd

    from analysis.table import Table
    from launch.spec.spec import Cell

CURVES = "learning_curves"
FOLDER = Path(__file__).parent


class FigureRefused(Exception):
    """A figure that a spec asks for cannot be drawn; the message says which and why."""


@dataclass(frozen=True)
class RenderedFigure:
    """A figure for the page, and the files that it is to be written to; none where they are there
    already.
    """

    drawing: Drawing
    key: str
    contents: Mapping[str, bytes] = field(default_factory=dict)


class Look(NamedTuple):
    """How figures are to be: their width in inches (None: as each is drawn), and the kinds of
    their files.
    """

    width: float | None = None
    kinds: tuple[str, ...] = ("pdf", "png", "svg")


class Sources(NamedTuple):
    """Where a figure's data come from beside the records: curves(metric), artifacts(run, name)."""

    curves: Callable[[str], "pd.DataFrame"]
    artifacts: Callable[[str, str], bytes | None]


def render_figures(
    table: "Table", sources: Sources, folder: Path, *, with_curves: bool, look: Look | None = None
) -> list[RenderedFigure]:
    """Every figure that the spec names and, `with_curves`, its learning curves if it does not name
    them and has some.
    """
    wanted: list[tuple[str, str, dict[str, Any]]] = [
        (figure.name, figure.draw, dict(figure.options)) for figure in table.spec.figures
    ]
    metric = f"test_{table.metric.name}"
    is_named = CURVES in [draw for _, draw, _ in wanted]
    if with_curves and not is_named and len(sources.curves(metric)):
        wanted.append((CURVES, CURVES, {"metric": metric}))
    return [_render(table, sources, folder, *one, look or Look()) for one in wanted]


def write_figure(figure: RenderedFigure, folder: Path, slug: str) -> list[Path]:
    """Write what is new of a figure; returns the paths of all its files."""
    for name, content in figure.contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    if figure.contents:
        note = _note(folder, slug, figure.drawing.name)
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps({"key": figure.key, **vars(figure.drawing)}), encoding="utf-8")
    return [folder / name for name in figure.drawing.files]


def _render(
    table: "Table",
    sources: Sources,
    folder: Path,
    name: str,
    draw: str,
    options: Mapping[str, Any],
    look: Look,
) -> RenderedFigure:
    key = _key(table, sources, draw, {**options, "look": look})
    known = _cached(folder, table.slug, name, key)
    if known is not None:
        return RenderedFigure(known, key)
    from analysis import figures  # matplotlib costs a second: only where something is drawn

    try:
        figure, data = figures.render(
            draw, table.spec, table.records, sources.curves, options, sources.artifacts
        )
    except figures.FigureError as error:
        raise FigureRefused(f"{table.spec.path}: figure '{name}': {error}") from error
    if look.width is not None:
        figure.set_figwidth(look.width)  # text keeps its size: it is laid out anew, not scaled
    caption = (figures.load(draw).__doc__ or "").strip().split("\n\n")[0]
    caption = " ".join(caption.split())
    contents = {
        f"{table.slug}/{name}.{kind}": figures.to_bytes(figure, kind, name) for kind in look.kinds
    }
    contents[f"{table.slug}/{name}.csv"] = data.to_csv(index=False, lineterminator="\n").encode()
    svg = figures.inline_svg(figure, f"{table.slug}-{name}", caption)
    return RenderedFigure(Drawing(name, caption, svg, tuple(contents)), key, contents)


def _cached(folder: Path, slug: str, name: str, key: str) -> Drawing | None:
    """The figure as it was drawn before from the same input; None where it was not."""
    try:
        known = json.loads(_note(folder, slug, name).read_text(encoding="utf-8"))
        if known.pop("key") == key and all((folder / file).is_file() for file in known["files"]):
            return Drawing(**known | {"files": tuple(known["files"])})
    except (OSError, ValueError, KeyError, TypeError):
        pass  # never drawn, or its note cannot be read
    return None


def _note(folder: Path, slug: str, name: str) -> Path:
    return folder / ".cache" / "figures" / f"{slug}-{name}.json"


def _drawn_of(cell: "Cell") -> list[object]:
    """What a figure can show of a cell; an id stands for all values of its trial."""
    trials = [trial.id for trial in cell.trials]
    return [cell.labels, cell.published, trials, cell.also, cell.stopped, cell.sample, cell.quoted]


def _key(table: "Table", sources: Sources, draw: str, options: Mapping[str, Any]) -> str:
    """A hash of all that a figure is made from: the spec, its options, records and curves, and the
    code that draws.
    """
    parts = [
        repr([_drawn_of(cell) for cell in table.spec.cells]),
        repr(table.spec.search),
        repr(table.spec.metric),
        draw,
        repr(sorted(options.items(), key=str)),
        _code(),
        table.records.to_csv(index=False),
    ]
    if draw in signatures.names() and "curves" in signatures.signature(draw).sources:
        metric = options.get("metric", f"test_{table.metric.name}")
        parts.append(sources.curves(str(metric)).to_csv(index=False))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


@cache
def _code() -> str:
    """The code and data files of this package, and the version of the library that draws."""
    kinds = (".py", ".mplstyle", ".csv")
    files = sorted(path for path in FOLDER.rglob("*") if path.suffix in kinds)
    texts = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    return " ".join([version("matplotlib"), *texts])
