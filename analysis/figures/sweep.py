"""One setting against the metric, as in the paper's Fig. 4 and 5: means over seeds with their
standard deviations.
"""

import itertools
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.collect import collect
from analysis.figures import GRID, INK, MUTED, PALETTE, PAPER, FigureError, axis_title
from analysis.figures._settings import setting
from analysis.table import CellResult
from launch.spec.load import Cell, Spec

NAMES = {
    "alpha": "α",
    "omega": "ω",
    "lr": "learning rate",
    "weight_decay": "weight decay",
    "limit": "training images",
}


def data(
    spec: Spec,
    records: pd.DataFrame,
    *,
    x: str,
    where: Mapping[str, Any] | None = None,
    baseline: str | None = None,
    panels: str | None = None,
) -> pd.DataFrame:
    """A row per point, ordered by x: panel, cell, how many of its seeds have finished, mean, std
    and the published number.

    x         dotted key of a number, such as method.alpha
    where     dotted key -> value that a cell's trials must have; a section alone (method) compares
              its name
    baseline  the label of a cell that is drawn as a line; its row has no x
    panels    an axis of the spec, with a panel for each of its values; without it there is one,
              and no such column
    """
    if panels is not None and panels not in spec.axes:
        raise FigureError(f"panels: no axis '{panels}'; valid: {', '.join(spec.axes)}")
    results = {cell.labels: cell for cell in collect(spec, records).cells}
    place = None if panels is None else spec.axes.index(panels)
    frames = []
    trained = [cell for cell in spec.cells if cell.trials]
    labels = [cell.labels[place] if place is not None else "" for cell in trained]
    for panel in dict.fromkeys(labels):
        cells = [cell for cell in trained if place is None or cell.labels[place] == panel]
        rows = _points(cells, results, x, where or {})
        if baseline is not None:
            own = {cell.labels: results[cell.labels] for cell in cells}
            rows.append({"x": None, **_numbers(_labelled(own, baseline))})
        frames.append(pd.DataFrame([{"panel": panel, **row} for row in rows]))
    frame = pd.concat(frames, ignore_index=True).astype(
        dict.fromkeys(("x", "mean", "std", "published"), float)
    )
    return frame.drop(columns="panel") if panels is None else frame


def _points(
    cells: list[Cell],
    results: Mapping[tuple[str, ...], CellResult],
    x: str,
    where: Mapping[str, Any],
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    drawn: dict[float, str] = {}
    for cell in cells:
        if not all(setting(cell, key) == value for key, value in where.items()):
            continue
        at = setting(cell, x)
        if isinstance(at, bool) or not isinstance(at, int | float):
            raise FigureError(
                f"x: {x} is {at!r} in the cell '{' · '.join(cell.labels)}'; valid: the key of a "
                "number"
            )
        trials = " ".join(trial.id for trial in cell.trials)
        if drawn.get(at) == trials:  # one trial under two labels is one point
            continue
        if at in drawn:
            raise FigureError(
                f"two different cells have {x} = {at}; name one more key in `where`, or an axis "
                "in `panels`"
            )
        drawn[at] = trials
        rows.append({"x": float(at), **_numbers(results[cell.labels])})
    if not rows:
        raise FigureError(f"no cell has {dict(where)}; valid: values of this spec's trials")
    return sorted(rows, key=lambda row: float(row["x"]))


def draw(
    spec: Spec,
    records: pd.DataFrame,
    *,
    x: str,
    where: Mapping[str, Any] | None = None,
    baseline: str | None = None,
    panels: str | None = None,
) -> Figure:
    """The points of `data` with their error bars; points without a finished seed are named below
    the axis.
    """
    frame = data(spec, records, x=x, where=where, baseline=baseline, panels=panels)
    parts = [("", frame)] if panels is None else list(frame.groupby("panel", sort=False))
    figure = Figure(
        figsize=(4.7 if len(parts) == 1 else 3.6 * len(parts), 3.2 if len(parts) == 1 else 3.4)
    )
    grid = figure.subplots(1, len(parts), squeeze=False)[0]
    name = NAMES.get(x.rpartition(".")[2], x)
    done = frame[frame["x"].notna() & (frame["n"] > 0)]
    label = (
        f"ours, mean ± standard deviation ({_seeds(done)})"
        if (done["n"] > 1).any()
        else "ours, one seed"
    )
    missing = []
    handles: dict[str, Any] = {}
    for (title, part), axes in zip(parts, grid, strict=True):
        axes.set_title(_heading(panels, title))
        absent = _panel(axes, part, name, label)
        missing += [f"{title}: {absent}" if title else absent] if absent else []
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    grid[0].set_ylabel(axis_title(spec.metric.name))
    if missing:
        text = "\n".join(f"no finished seed yet: {points}" for points in missing)
        figure.supxlabel(text, fontsize=8, color=MUTED)
    if handles:
        figure.legend(
            list(handles.values()),
            list(handles),
            loc="outside upper left",
            ncols=1 if len(parts) == 1 else 2,
        )
    return figure


def _heading(panels: str | None, label: str) -> str:
    """A panel's label; with the axis's name before a number, which says nothing alone."""
    if panels is None or not re.fullmatch(r"-?[\d.]+(e-?\d+)?", label):
        return label
    return f"{NAMES.get(panels.rpartition('.')[2], panels)} = {label}"


def _panel(axes: Axes, frame: pd.DataFrame, name: str, label: str) -> str:
    """Draw one panel; returns which of its points have no finished seed, as text."""
    points, lines = frame[frame["x"].notna()], frame[frame["x"].isna()]
    for line in lines.to_dict("records"):
        _baseline(axes, line, named=line["cell"].rpartition(" · ")[2])
    done = points[points["n"] > 0]
    places = _places([float(value) for value in points["x"]])
    at = points["x"].map(places)
    if len(done):
        spread = done["std"].fillna(0.0)
        axes.errorbar(
            at[done.index], done["mean"], spread, fmt="-o", color=PALETTE[0], label=label, zorder=3
        )
    if points["published"].notna().any():
        style: dict[str, Any] = {
            "markerfacecolor": PAPER,
            "markeredgecolor": INK,
            "linestyle": "none",
            "zorder": 4,
        }
        axes.plot(at, points["published"], label="published", marker="D", **style)
    axes.set_xticks(list(at), [f"{value:g}" for value in points["x"]])
    axes.update_datalim([(place, 0.0) for place in at], updatey=False)
    axes.autoscale_view()
    axes.margins(x=0.08)
    axes.grid(axis="x", visible=False)
    axes.set_xlabel(name)
    absent = [f"{value:g}" for value in points[points["n"] == 0]["x"]]
    return f"{name} = {', '.join(absent)}" if absent else ""


def _places(values: list[float]) -> dict[float, float]:
    """Where each value stands on the axis: at itself, or evenly spaced where some are too close to
    be told apart.
    """
    room = 0.055 * (max(values) - min(values))
    crowded = any(high - low < room for low, high in itertools.pairwise(values))
    return {value: float(place) if crowded else value for place, value in enumerate(values)}


def _baseline(axes: Axes, line: Mapping[Any, Any], named: str) -> None:
    if line["n"]:
        spread = 0.0 if np.isnan(line["std"]) else line["std"]
        label = f"{named}, mean" + (" ± standard deviation" if spread else "")
        axes.axhline(line["mean"], color=MUTED, linestyle=(0, (4, 2)), linewidth=1.2, label=label)
        axes.axhspan(
            line["mean"] - spread, line["mean"] + spread, color=GRID, alpha=0.6, linewidth=0
        )
    if not np.isnan(line["published"]):
        label = f"{named}, published"
        axes.axhline(line["published"], color=INK, linestyle=(0, (1, 2)), linewidth=1, label=label)


def _numbers(cell: CellResult) -> dict[str, Any]:
    ours = cell.ours
    return {
        "cell": " · ".join(cell.labels),
        "n": len(cell.finished),
        "mean": ours.mean if ours else None,
        "std": ours.std if ours else None,
        "published": cell.published,
    }


def _seeds(points: pd.DataFrame) -> str:
    low, high = points["n"].min(), points["n"].max()
    return f"n = {low}" if low == high else f"n = {low} to {high}"


def _labelled(results: Mapping[tuple[str, ...], CellResult], label: str) -> CellResult:
    fitting = [
        cell for labels, cell in results.items() if label in (labels[-1], " · ".join(labels))
    ]
    if len(fitting) != 1:
        valid = ", ".join(f"'{' · '.join(labels)}'" for labels in results)
        raise FigureError(
            f"baseline: {len(fitting) or 'no'} cells are labelled '{label}'; valid: one of {valid}"
        )
    return fitting[0]
