"""A search: where its samples lie, their validation metric as colour, and how each of them learned
until it was stopped.
"""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from analysis.figures import INK, MUTED, PALETTE, PAPER, Curves, FigureError
from analysis.figures.sweep import NAMES
from launch.spec.load import Spec
from launch.spec.search import Dimension, Search, winner
from rm.metrics import Metric

COLUMNS = ("sample", "x", "y", "state", "winner", "epoch", "value")
_COLOURS = {"lower": "viridis_r", "higher": "viridis"}
_STEPS = (1.0, 2.0, 5.0)


def data(
    spec: Spec,
    records: pd.DataFrame,
    *,
    curves: Curves,
    x: str | None = None,
    y: str | None = None,
) -> pd.DataFrame:
    """A row for each sample and evaluated epoch: its place, its state, whether it won, and its
    metric on held-out images.

    x, y   keys of the space; the first two where they are left out
    """
    search = _search(spec)
    across, up = _axes(search, x, y)
    best = winner(search.tried, search.samples, search.objective)
    points = curves(f"test_{search.metric}")
    rows: list[dict[str, Any]] = []
    for one in search.tried:
        curve = points[points["run_id"] == one.run_id]
        for epoch, value in zip(curve["epoch"], curve["value"], strict=True):
            place = {"x": one.sample.point[across.key], "y": one.sample.point[up.key]}
            shown = {
                "state": one.state,
                "winner": one is best,
                "epoch": int(epoch),
                "value": float(value),
            }
            rows.append({"sample": one.sample.number, **place, **shown})
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype({"winner": bool, "value": float})


def draw(
    spec: Spec,
    records: pd.DataFrame,
    *,
    curves: Curves,
    x: str | None = None,
    y: str | None = None,
) -> Figure:
    """Left the plane of two keys, right the learning curves; a cross is where the scheduler
    stopped a sample.
    """
    search = _search(spec)
    across, up = _axes(search, x, y)
    frame = data(spec, records, curves=curves, x=x, y=y)
    last = frame.drop_duplicates("sample", keep="last")
    metric = search.objective
    norm, colours = _range(last, metric), _COLOURS[metric.better]
    figure = Figure(figsize=(8.2, 3.6))
    plane, lines = figure.subplots(1, 2, width_ratios=(1.1, 1))
    _plane(plane, last, (norm, colours), (across, up))
    if len(last):
        ticks = LogLocator(subs=_STEPS) if isinstance(norm, LogNorm) else None
        scale = ScalarMappable(norm, colours)
        bar = figure.colorbar(scale, ax=plane, pad=0.02, format="{x:g}", ticks=ticks)
        bar.minorticks_off()
        bar.outline.set_visible(False)
        bar.set_label(f"{metric.title}, {search.held_out} held-out images")
    _lines(lines, frame, is_log=metric.better == "lower")
    lines.set_xlabel("epoch")
    lines.set_ylabel(f"{metric.title}, held-out images")
    left = search.samples - sum(one.state != "undecided" for one in search.tried)
    if left:
        text = f"{left} of {search.samples} samples are not decided yet: no winner"
        figure.supxlabel(text, fontsize=8, color=MUTED)
    if lines.get_legend_handles_labels()[0]:
        figure.legend(*lines.get_legend_handles_labels(), loc="outside upper left", ncols=4)
    return figure


def _search(spec: Spec) -> Search:
    if spec.search is None:
        raise FigureError("the spec has no search to draw; valid: a spec with `search:`")
    return spec.search


def _axes(search: Search, x: str | None, y: str | None) -> tuple[Dimension, Dimension]:
    """The two dimensions of the plane, whose values are numbers."""
    numeric = {
        d.key: d for d in search.space if all(type(bound) in (int, float) for bound in d.bounds)
    }
    free = [key for key in numeric if key not in (x, y)]
    chosen = []
    for option, key in (("x", x), ("y", y)):
        wanted = key if key is not None else free.pop(0) if free else None
        if wanted not in numeric:
            raise FigureError(
                f"{option}: {wanted} is no numeric key of the space; valid: {', '.join(numeric)}"
            )
        chosen.append(numeric[wanted])
    return chosen[0], chosen[1]


def _range(last: pd.DataFrame, metric: Metric) -> Normalize:
    """Colours over what all samples ended with; of an error in powers of ten, as samples stopped
    early would dwarf the others.
    """
    values = last["value"]
    low, high = (float(values.min()), float(values.max())) if len(values) else (1.0, 10.0)
    high = high if high > low else low + 1.0
    is_log = low > 0 and metric.better == "lower"
    return LogNorm(low, high) if is_log else Normalize(low, high)


def _plane(
    axes: Axes,
    last: pd.DataFrame,
    scale: tuple[Normalize, str],
    dimensions: tuple[Dimension, Dimension],
) -> None:
    styles: dict[str, dict[str, Any]] = {
        "finished": {"marker": "o", "s": 46},
        "stopped": {"marker": "X", "s": 30},
        "undecided": {"marker": "o", "s": 12},
        "failed": {"marker": "o", "s": 12},
    }
    for state, style in styles.items():
        some = last[last["state"] == state]
        axes.scatter(
            some["x"],
            some["y"],
            c=some["value"],
            norm=scale[0],
            cmap=scale[1],
            linewidths=0,
            zorder=3,
            **style,
        )
    _winner(axes, last[last["winner"]])
    for which, dimension in zip("xy", dimensions, strict=True):
        axes.set(**{f"{which}label": NAMES.get(dimension.key.rpartition(".")[2], dimension.key)})
        low, high = float(min(dimension.bounds)), float(max(dimension.bounds))
        if dimension.kind == "loguniform":
            axes.set(**{f"{which}lim": (low / 1.2, high * 1.2)})
            axes.set(**{f"{which}scale": "log"})
            getattr(axes, f"{which}axis").set_major_formatter("{x:g}")
        else:
            edge = 0.05 * (high - low or 1.0)
            axes.set(**{f"{which}lim": (low - edge, high + edge)})


def _winner(axes: Axes, best: pd.DataFrame) -> None:
    """A ring, with the values of both keys."""
    axes.scatter(
        best["x"],
        best["y"],
        s=150,
        facecolors="none",
        edgecolors=PALETTE[1],
        linewidths=1.8,
        zorder=4,
    )
    for row in best.to_dict("records"):
        text = f"{row['x']:g}, {row['y']:g}"
        axes.annotate(
            text,
            (row["x"], row["y"]),
            (0, 10),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            color=INK,
        )


def _lines(axes: Axes, frame: pd.DataFrame, *, is_log: bool) -> None:
    labelled: set[str] = set()

    def label(text: str) -> str:
        known = text in labelled
        labelled.add(text)
        return "_" if known else text

    for _, line in frame.groupby("sample"):
        end = line.iloc[-1]
        if end["winner"]:
            axes.plot(
                line["epoch"], line["value"], color=PALETTE[1], zorder=5, label=label("the winner")
            )
            continue
        name = label("finished") if end["state"] == "finished" else "_"
        axes.plot(
            line["epoch"],
            line["value"],
            color=MUTED,
            linewidth=0.8,
            alpha=0.7,
            zorder=3,
            label=name,
        )
        if end["state"] == "stopped":
            cross: dict[str, Any] = {
                "marker": "X",
                "color": PALETTE[0],
                "markeredgecolor": PAPER,
                "linestyle": "none",
                "zorder": 4,
            }
            axes.plot(
                [end["epoch"]], [end["value"]], label=label("stopped by the scheduler"), **cross
            )
    if is_log and len(frame) and frame["value"].min() > 0:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=_STEPS))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(NullLocator())
