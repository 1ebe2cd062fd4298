"""A metric on the test set against epoch: each cell's mean over its seeds, every seed as a thin
line; behind them the authors' released logs.
"""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from analysis.collect import collect
from analysis.figures import LINES, MUTED, PALETTE, Curves, FigureError
from analysis.records.official import by_trial, load_official
from analysis.table import Table
from launch.spec.load import Spec
from rm import registry
from rm.metrics import Metric

MOST_TOLD_APART = 48
"""Columns of a panel that have a colour, a dash and a line in the legend each."""


def data(
    spec: Spec, records: pd.DataFrame, *, curves: Curves, metric: str | None = None
) -> pd.DataFrame:
    """Columns row, cell, seed, epoch, value; unfinished runs are in it as far as they have
    come.

    metric   as journalled, such as test_top1_error; the spec's own where it is left out
    """
    table = collect(spec, records)
    metric = metric or f"test_{spec.metric.name}"
    trials = dict(zip(records["run_id"], records["trial_id"], strict=True))
    points = curves(metric)
    points = points.assign(trial_id=points["run_id"].map(trials))
    merged = table.places.merge(points, on="trial_id")
    return merged[["row", "cell", "seed", "epoch", "value"]]


def official(spec: Spec, metric: str) -> pd.DataFrame:
    """Columns row, cell, log, epoch, value: the released logs of the cells of this spec; none for
    a changed copy.
    """
    table = collect(spec, pd.DataFrame(columns=["trial_id"]))
    logs = {} if spec.variant else by_trial(load_official(), [spec])
    rows = [
        (cell.row * table.is_grid, cell.labels[-1], log.name, epoch, value)
        for cell in table.cells
        for log in logs.get(cell.seeds[0].trial_id, ())
        for epoch, value in log.curve(metric.removeprefix("test_")).items()
    ]
    return pd.DataFrame(rows, columns=["row", "cell", "log", "epoch", "value"])


def draw(
    spec: Spec, records: pd.DataFrame, *, curves: Curves, metric: str | None = None
) -> Figure:
    """One panel per row of the table, one colour per column; a single panel where the table has
    one axis.

    The axis ends before the first epochs' values where they would dwarf the rest. The mean runs as
    far as all seeds that have logged anything do, so that it never jumps where one of them ends.
    More columns than can be told apart are means of one colour, without a legend.
    """
    table = collect(spec, records)
    metric = metric or f"test_{spec.metric.name}"
    drawn = _metric(metric)
    frame = data(spec, records, curves=curves, metric=metric)
    logs = official(spec, metric)
    panels = list(table.rows) if table.is_grid else [""]
    across = min(len(panels), 3)
    down = -(-len(panels) // across)
    figure = Figure(figsize=(max(4.7, 3.1 * across), 0.7 + 2.7 * down))
    grid = figure.subplots(down, across, squeeze=False, sharex=True)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for panel, axes in zip(panels, grid.flat, strict=False):
        axes.set_title(panel)
        _authors(axes, logs[logs["row"] == panel])
        _panel(axes, frame[frame["row"] == panel], _columns(table), drawn)
    for column in grid.T:
        lowest = [axes for axes in column if axes.get_visible()][-1]
        lowest.set_xlabel("epoch")
        lowest.tick_params(labelbottom=True)
    for axes in grid[:, 0]:
        axes.set_ylabel(drawn.title)
    handles: dict[str, Any] = {}
    for axes in grid.flat if len(_columns(table)) <= MOST_TOLD_APART else ():
        handles |= {
            label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
    if handles:
        figure.legend(
            list(handles.values()),
            list(handles),
            loc="outside upper left",
            ncols=min(len(handles), 4),
        )
    return figure


def _metric(name: str) -> Metric:
    """The metric of a curve, which is journalled with the split before its name."""
    try:
        return registry.metric(name.removeprefix("test_").removeprefix("train_"))
    except registry.RegistryError as error:
        raise FigureError(f"metric: {error}") from None


def _authors(axes: Axes, frame: pd.DataFrame) -> None:
    """The authors' logs as grey lines, their label with the cells and the number of logs."""
    logs = list(frame.groupby("log"))
    cells = ", ".join(dict.fromkeys(frame["cell"]))
    label = f"the authors' released log{'s' if len(logs) > 1 else ''} of {cells} ({len(logs)})"
    for _, line in logs:
        axes.plot(
            line["epoch"],
            line["value"],
            color=MUTED,
            linewidth=0.7,
            alpha=0.65,
            zorder=1.5,
            label=label,
        )


def _panel(axes: Axes, frame: pd.DataFrame, columns: list[str], metric: Metric) -> None:
    if len(columns) > MOST_TOLD_APART:
        _draw_crowd(axes, frame)
    else:
        _draw_columns(axes, frame, columns)
    cells = frame.groupby(["cell", "seed"])["value"]
    reached = (cells.min() if metric.better == "lower" else cells.max()).to_list()
    if reached:
        _limit(axes, frame["value"], reached, metric)
        if frame["value"].min() >= 0 > axes.get_ylim()[0]:
            axes.set_ylim(bottom=0)
    else:
        axes.text(
            0.5,
            0.5,
            "no data yet",
            transform=axes.transAxes,
            ha="center",
            va="center",
            color=MUTED,
        )
        axes.set_yticks([])


def _draw_crowd(axes: Axes, frame: pd.DataFrame) -> None:
    """The means of more columns than can be told apart, as thin lines of one colour."""
    points = frame.groupby(["cell", "epoch"])["value"].agg(["mean", "size"])
    common = points["size"] == points.groupby("cell")["size"].transform("max")
    lines = [line.reset_index()[["epoch", "mean"]] for _, line in points[common].groupby("cell")]
    crowd = LineCollection([line.to_numpy() for line in lines], colors=PALETTE[0])
    crowd.set(linewidth=0.4, alpha=0.3)
    axes.add_collection(crowd)
    axes.autoscale()


def _draw_columns(axes: Axes, frame: pd.DataFrame, columns: list[str]) -> None:
    for i, column in enumerate(columns):
        lines = frame[frame["cell"] == column].pivot(index="epoch", columns="seed", values="value")
        if lines.empty:
            continue
        colour, dash = PALETTE[i % len(PALETTE)], LINES[i // len(PALETTE) % len(LINES)]
        for seed in lines:
            axes.plot(lines.index, lines[seed], color=colour, linewidth=0.5, alpha=0.4)
        mean = lines.dropna().mean(axis=1)
        marker = "o" if len(mean) == 1 else None  # a line of one point would not be seen
        axes.plot(mean.index, mean, color=colour, linestyle=dash, marker=marker, label=column)


def _limit(axes: Axes, values: pd.Series, reached: list[float], metric: Metric) -> None:
    """The first epochs would flatten all that is worth comparing: what is 2.5 times as far from
    perfect as the worst of what was `reached` is left out. A metric whose perfect value is unknown
    keeps six tenths of the way between the first and the best value.
    """
    perfect = 0.0 if metric.better == "lower" else 100.0 if metric.unit == "%" else None
    worst = min(reached) if metric.better == "higher" else max(reached)
    if perfect is None:
        edge = worst - 0.6 * (max(reached) - values.min())
    else:
        edge = perfect + 2.5 * (worst - perfect)
    if metric.better == "higher" and values.min() < edge:
        axes.set_ylim(bottom=edge)
    elif metric.better == "lower" and values.max() > edge:
        axes.set_ylim(top=edge)


def _columns(table: Table) -> list[str]:
    return list(dict.fromkeys(cell.labels[-1] for cell in table.cells))
