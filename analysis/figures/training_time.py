"""A metric on the test set against the time that training took, as in AMix's Fig. 5: what a
method's slower steps buy.
"""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.collect import collect
from analysis.figures import LINES, MUTED, PALETTE, Curves, FigureError, axis_title
from launch.spec.load import Spec

COLUMNS = ["row", "cell", "seed", "device", "epoch", "seconds", "value"]
UNITS = (("hours", 3600), ("minutes", 60), ("seconds", 1))


def data(
    spec: Spec,
    records: pd.DataFrame,
    *,
    curves: Curves,
    metric: str | None = None,
    baseline: str | None = None,
) -> pd.DataFrame:
    """A row for each evaluated epoch of each trial, unfinished ones too: row, cell, seed, device,
    epoch, seconds that its epochs have trained until then, value.

    metric    as journalled, such as test_top1_error; the spec's own where it is left out
    baseline  a label of the last axis, by whose time the others' is divided in the legend

    An epoch's seconds are those of its steps alone, without its evaluation.
    """
    table = collect(spec, records)
    if baseline is not None and baseline not in (labels := [c.labels[-1] for c in table.cells]):
        valid = ", ".join(dict.fromkeys(labels))
        raise FigureError(f"baseline: no cell is labelled '{baseline}'; valid: {valid}")
    points = curves("epoch_seconds").astype({"value": float}).sort_values(["run_id", "epoch"])
    points = points.assign(seconds=points.groupby("run_id")["value"].cumsum())
    values = curves(metric or f"test_{spec.metric.name}")
    points = points.drop(columns="value").merge(values, on=["run_id", "epoch"])
    runs = records[["run_id", "trial_id", "device"]]
    return table.places.merge(points.merge(runs, on="run_id"), on="trial_id")[COLUMNS]


def draw(
    spec: Spec,
    records: pd.DataFrame,
    *,
    curves: Curves,
    metric: str | None = None,
    baseline: str | None = None,
) -> Figure:
    """A panel for each row of a grid, a line in it for each cell: at each epoch the seeds' mean
    time and value, with a dot where the training is over, and its time by the baseline's.
    """
    frame = data(spec, records, curves=curves, metric=metric, baseline=baseline)
    table = collect(spec, records)
    panels = list(table.rows) if table.is_grid else [""]
    cells = list(dict.fromkeys(cell.labels[-1] for cell in table.cells))
    figure = Figure(figsize=(max(4.7, 3.6 * len(panels)), 3.4))
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    for panel, axes in zip(panels, grid, strict=True):
        axes.set_title(panel)
        _panel(axes, frame[frame["row"] == panel], cells, baseline)
    name = metric or f"test_{spec.metric.name}"
    grid[0].set_ylabel(axis_title(name.removeprefix("test_").removeprefix("train_")))
    devices = sorted({str(device) for device in frame["device"].dropna()})
    if len(devices) > 1:
        text = f"trained on {', '.join(devices)}: times of different devices do not compare"
        figure.supxlabel(text, fontsize=8, color=MUTED, wrap=True)
    return figure


def _panel(axes: Axes, frame: pd.DataFrame, cells: list[str], baseline: str | None) -> None:
    if frame.empty:
        where: dict[str, Any] = {"transform": axes.transAxes, "ha": "center", "va": "center"}
        axes.text(0.5, 0.5, "no data yet", color=MUTED, **where)
        axes.set_yticks([])
        return
    unit, seconds = _unit(frame["seconds"].max())
    lines = {cell: _mean(frame[frame["cell"] == cell]) for cell in cells}
    reference = lines.get(baseline or "", pd.DataFrame())
    for place, (cell, line) in enumerate(lines.items()):
        if line.empty:
            continue
        end, label = line.iloc[-1], cell
        if len(reference) and cell != baseline and reference.index[-1] == line.index[-1]:
            label = f"{cell}, {end['seconds'] / reference.iloc[-1]['seconds']:.2g}× the time"
        dash = LINES[place // len(PALETTE) % len(LINES)]
        style: dict[str, Any] = {"color": PALETTE[place % len(PALETTE)], "linestyle": dash}
        axes.plot(line["seconds"] / seconds, line["value"], linewidth=1, **style)
        axes.plot(end["seconds"] / seconds, end["value"], marker="o", label=label, **style)
    axes.set_xlim(left=0)
    axes.set_xlabel(f"{unit} of training")
    axes.legend(loc="best", fontsize=7)


def _mean(frame: pd.DataFrame) -> pd.DataFrame:
    """Of the seeds at the epochs that all have reached which have begun: epoch -> seconds,
    value.
    """
    grouped = frame.groupby("epoch")[["seconds", "value"]]
    reached = grouped.size()
    return grouped.mean()[reached == reached.max()]


def _unit(longest: float) -> tuple[str, int]:
    """The largest unit of which there are two, and its seconds."""
    return next((unit for unit in UNITS if longest >= 2 * unit[1]), UNITS[-1])
