"""One file per figure, and the one style of all of them.

A figure's file defines `data(spec, records, **options) -> DataFrame`, the numbers that are drawn,
and `draw(spec, records, *, ...) -> Figure` with the same keyword-only options, typed and with
literal defaults, which a spec names under `figures:`; `launch.spec.figures` reads them off the
source. A figure that also takes `curves` is handed a function `curves(metric) -> DataFrame(run_id,
epoch, value)`, one that takes `artifacts` a function `artifacts(run_id, name) -> bytes`. No
pyplot, no global state, and the same input gives the same bytes.
"""

import importlib
import io
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import matplotlib
import matplotlib.style
import pandas as pd
from matplotlib.figure import Figure

from launch.spec import figures as signatures
from rm import registry

Curves = Callable[[str], pd.DataFrame]
Artifacts = Callable[[str, str], bytes | None]
"""(run_id, name) -> the content of a file that the run kept, None where there is none."""

STYLE_FILE = Path(__file__).with_name("recursivemix.mplstyle")
STYLE = matplotlib.rc_params_from_file(STYLE_FILE, use_default_template=False)
INK, MUTED, GRID, PAPER = (
    str(STYLE["text.color"]),
    str(STYLE["axes.edgecolor"]),
    str(STYLE["grid.color"]),
    "#fefefe",
)
PALETTE = tuple(STYLE["axes.prop_cycle"].by_key()["color"])
LINES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.2, 1.2, 1.2)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h")

_UNDATED: dict[str, dict[str, None]] = {
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
}


class FigureError(Exception):
    """A spec asks for a figure that cannot be drawn: the message names spec, figure, option and
    what would be valid.
    """


def load(draw: str) -> ModuleType:
    """The module `analysis/figures/<draw>.py`."""
    if draw not in signatures.names():
        raise FigureError(f"unknown figure '{draw}'; valid: {', '.join(signatures.names())}")
    return importlib.import_module(f"analysis.figures.{draw}")


def render(
    draw: str,
    spec: Any,
    records: pd.DataFrame,
    curves: Curves,
    options: Mapping[str, Any],
    artifacts: Artifacts = lambda run_id, name: None,
) -> tuple[Figure, pd.DataFrame]:
    """A figure and the numbers in it, in the house style."""
    module = load(draw)
    wrong = signatures.check(draw, options)
    if wrong:
        raise FigureError(wrong[0][1])
    sources = {"curves": curves, "artifacts": artifacts}
    taken = {name: sources[name] for name in signatures.signature(draw).sources}
    with style():
        return module.draw(spec, records, **options, **taken), module.data(
            spec, records, **options, **taken
        )


def axis_title(name: str) -> str:
    """The title of an axis on which a metric, or what a probe journals beside it, is drawn."""
    try:
        return registry.metric(name).title
    except registry.RegistryError:
        return name.replace("_", " ")


@contextmanager
def style() -> Iterator[None]:
    """The house style, for the duration of a drawing or saving."""
    with matplotlib.style.context(STYLE_FILE, after_reset=True):
        yield


def to_bytes(figure: Figure, kind: str, name: str) -> bytes:
    """A figure as pdf, png or svg, undated; `name` seeds the ids within an SVG."""
    buffer = io.BytesIO()
    face = "white" if kind == "png" else "none"
    with style(), matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format=kind, metadata=_UNDATED[kind], facecolor=face)
    return buffer.getvalue()


def save(figure: Figure, data: pd.DataFrame, folder: Path, name: str) -> list[Path]:
    """Write `name`.pdf, .png, .svg and the numbers as .csv into a folder; returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for kind in _UNDATED:
        paths.append(folder / f"{name}.{kind}")
        paths[-1].write_bytes(to_bytes(figure, kind, name))
    paths.append(folder / f"{name}.csv")
    paths[-1].write_text(data.to_csv(index=False, lineterminator="\n"), encoding="utf-8")
    return paths


def inline_svg(figure: Figure, name: str, description: str) -> str:
    """An SVG element to stand in a page: ids prefixed with the name, and colours as the page's
    variables.

    --ink, --muted, --grid, --paper and --c0 … --c7 recolour it for a dark page; without them it
    keeps its own colours.
    """
    text = to_bytes(figure, "svg", name).decode("utf-8")
    text = text[text.index("<svg") :]
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    prefix = re.sub(r"\W", "-", name)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', text)
    text = re.sub(r'(href="#|url\(#)', rf"\1{prefix}-", text)
    names = {INK: "ink", MUTED: "muted", GRID: "grid", PAPER: "paper"} | {
        c: f"c{i}" for i, c in enumerate(PALETTE)
    }
    text = re.sub("|".join(names), lambda colour: f"var(--{names[colour[0]]}, {colour[0]})", text)
    # The page's own font is set by CSS; what is left of the shorthand is the size.
    text = re.sub(r"font: (?:\w+ )*?([\d.]+px) '[^;\"]*", r"font-size: \1", text)
    label = description.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    narrow, wide = (
        round(figure.get_figwidth() * pixels) for pixels in (70, 125)
    )  # per inch: small text, comfortable text
    size = f"min-width:{narrow}px;max-width:{wide}px"
    return text.replace("<svg ", f'<svg role="img" aria-label="{label}" style="{size}" ', 1)
