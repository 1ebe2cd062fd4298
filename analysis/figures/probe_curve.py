"""What a probe measured along its own axis, as in the paper's Fig. 7: means over runs, a band of
their standard deviation.
"""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.collect import collect
from analysis.figures import INK, LINES, MUTED, PALETTE, PAPER, Curves, axis_title
from launch.spec.load import Spec


def data(
    spec: Spec,
    records: pd.DataFrame,
    *,
    curves: Curves,
    x: str,
    y: str,
    at: float | None = None,
    log: bool = True,
) -> pd.DataFrame:
    """Columns cell, x, n, mean, std: a row for each cell and point, in the order of the table.

    x, y   names of what the probe journals at each point
    at     where the table's own number is, and the paper's
    log    whether x is drawn in powers of ten
    """
    runs = dict(zip(records["run_id"], records["trial_id"], strict=True))
    points = curves(x).merge(curves(y), on=["run_id", "epoch"], suffixes=("_x", "_y"))
    points = points.assign(trial_id=points["run_id"].map(runs))
    columns = ["cell", "x", "n", "mean", "std"]
    frames = []
    for cell in collect(spec, records).cells:
        own = points[points["trial_id"].isin([seed.trial_id for seed in cell.finished])]
        grouped = own.groupby("value_x")["value_y"].agg(["count", "mean", "std"]).reset_index()
        grouped.insert(0, "cell", " · ".join(cell.labels))
        frames.append(grouped.set_axis(columns, axis=1))
    return pd.concat(frames, ignore_index=True)


def draw(
    spec: Spec,
    records: pd.DataFrame,
    *,
    curves: Curves,
    x: str,
    y: str,
    at: float | None = None,
    log: bool = True,
) -> Figure:
    """A line for each cell with finished runs; the others are named below the axis. The paper's
    number is a diamond at `at`.
    """
    table = collect(spec, records)
    frame = data(spec, records, curves=curves, x=x, y=y, at=at, log=log)
    figure = Figure(figsize=(4.7, 3.4))
    axes = figure.add_subplot()
    for i, cell in enumerate(table.cells):
        name = " · ".join(cell.labels)
        line = frame[frame["cell"] == name]
        if len(line):
            _line(axes, line, i, name)
    if log:
        axes.set_xscale("log")
    if at is not None:
        _published(axes, table.cells, at, spec.margin)
    axes.set_xlabel(axis_title(x))
    axes.set_ylabel(axis_title(y))
    axes.set_ylim(bottom=0)
    missing = [" · ".join(cell.labels) for cell in table.cells if not cell.finished]
    if missing:
        figure.supxlabel(f"no finished seed yet: {', '.join(missing)}", fontsize=8, color=MUTED)
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside upper left", ncols=3)
    return figure


def _line(axes: Axes, line: pd.DataFrame, i: int, name: str) -> None:
    colour, dash = PALETTE[i % len(PALETTE)], LINES[i // len(PALETTE) % len(LINES)]
    axes.plot(line["x"], line["mean"], color=colour, linestyle=dash, label=name, zorder=3)
    spread = line["std"].fillna(0.0)
    axes.fill_between(
        line["x"],
        line["mean"] - spread,
        line["mean"] + spread,
        color=colour,
        alpha=0.2,
        linewidth=0,
    )


def _published(axes: Axes, cells: Any, at: float, margin: float) -> None:
    """Where the paper prints a number: a diamond with the margin that counts as the same."""
    axes.axvline(at, color=MUTED, linewidth=0.8, linestyle=(0, (4, 2)))
    label = "published, with the margin"
    for cell in cells:
        if cell.published is not None:
            style: dict[str, Any] = {
                "marker": "D",
                "markerfacecolor": PAPER,
                "markeredgecolor": INK,
                "ecolor": INK,
            }
            axes.errorbar(
                at, cell.published, margin, linestyle="none", label=label, zorder=4, **style
            )
            label = "_nolegend_"
