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
from typing import TYPE_CHECKING, Any

from analysis.page.html import Drawing

if TYPE_CHECKING:
    import pandas as pd

    from analysis.results import Table

Artifacts = Callable[[str, str], bytes | None]
CURVES = "learning_curves"
FOLDER = Path(__file__).parent


class PlateError(Exception):
    """A figure that a spec asks for cannot be drawn; the message says which and why."""


@dataclass(frozen=True)
class Plate:
    """A figure for the page, and the files that it is to be written to; none where they lie there
    already.
    """

    drawing: Drawing
    key: str
    contents: Mapping[str, bytes] = field(default_factory=dict)


def draw_plates(
    table: "Table",
    curves: Callable[[str], "pd.DataFrame"],
    folder: Path,
    *,
    with_curves: bool,
    artifacts: Artifacts = lambda run_id, name: None,
) -> list[Plate]:
    """Every figure that the spec names and, `with_curves`, its learning curves if it does not name
    them and has some.
    """
    wanted: list[tuple[str, str, dict[str, Any]]] = [
        (f.name, f.draw, dict(f.options)) for f in table.spec.figures
    ]
    metric = f"test_{table.spec.metric.name}"
    if with_curves and CURVES not in [draw for _, draw, _ in wanted] and len(curves(metric)):
        wanted.append((CURVES, CURVES, {"metric": metric}))
    return [_plate(table, curves, artifacts, folder, *one) for one in wanted]


def write_plate(plate: Plate, folder: Path, slug: str) -> list[Path]:
    """Write what is new of a figure; returns the paths of all its files."""
    for name, content in plate.contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    if plate.contents:
        note = _note(folder, slug, plate.drawing.name)
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps({"key": plate.key, **vars(plate.drawing)}), encoding="utf-8")
    return [folder / name for name in plate.drawing.files]


def _plate(
    table: "Table",
    curves: Callable[[str], "pd.DataFrame"],
    artifacts: Artifacts,
    folder: Path,
    name: str,
    draw: str,
    options: Mapping[str, Any],
) -> Plate:
    key = _key(table, curves, draw, options)
    try:
        known = json.loads(_note(folder, table.slug, name).read_text(encoding="utf-8"))
        if known.pop("key") == key and all((folder / file).is_file() for file in known["files"]):
            return Plate(Drawing(**known | {"files": tuple(known["files"])}), key)
    except (OSError, ValueError, KeyError, TypeError):
        pass  # never drawn, or its note cannot be read
    from analysis import figures  # matplotlib costs a second: only where something is drawn

    try:
        figure, data = figures.render(draw, table.spec, table.records, curves, options, artifacts)
    except figures.FigureError as error:
        raise PlateError(f"{table.spec.path}: figure '{name}': {error}") from error
    caption = (figures.load(draw).__doc__ or "").strip().splitlines()[0]
    contents = {
        f"{table.slug}/{name}.{kind}": figures.to_bytes(figure, kind, name)
        for kind in ("pdf", "png", "svg")
    }
    contents[f"{table.slug}/{name}.csv"] = data.to_csv(index=False, lineterminator="\n").encode()
    svg = figures.inline_svg(figure, f"{table.slug}-{name}", caption)
    return Plate(Drawing(name, caption, svg, tuple(contents)), key, contents)


def _note(folder: Path, slug: str, name: str) -> Path:
    return folder / ".cache" / "figures" / f"{slug}-{name}.json"


def _key(
    table: "Table", curves: Callable[[str], "pd.DataFrame"], draw: str, options: Mapping[str, Any]
) -> str:
    """A hash of all that a figure is made from: the spec, its options, records and curves, and the
    code that draws.
    """
    parts = [
        repr(table.spec.cells),
        repr(table.spec.search),
        repr(table.spec.metric),
        draw,
        repr(sorted(options.items(), key=str)),
        _code(),
    ]
    parts.append(table.records.to_csv(index=False))
    source = FOLDER / "figures" / f"{draw}.py"
    if source.is_file() and "curves: Curves" in source.read_text(encoding="utf-8"):
        metric = options.get("metric", f"test_{table.spec.metric.name}")
        parts.append(curves(str(metric)).to_csv(index=False))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


@cache
def _code() -> str:
    """The code and data files of this package, and the version of the library that draws."""
    files = sorted(
        [
            *FOLDER.glob("*.py"),
            *FOLDER.glob("*.mplstyle"),
            *FOLDER.glob("*.csv"),
            *FOLDER.glob("figures/*"),
        ]
    )
    texts = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.is_file()]
    return " ".join([version("matplotlib"), *texts])
