"""A metric over two settings, a field for each pair, as in AMix's Fig. 2c: means over seeds."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.collect import collect
from analysis.figures import MUTED, FigureError, axis_title
from analysis.figures._settings import setting
from launch.spec.load import Spec


def data(spec: Spec, records: pd.DataFrame, *, x: str, y: str) -> pd.DataFrame:
    """A row for each cell that has both settings: x, y, cell, how many of its seeds have finished,
    mean.

    x, y   dotted keys of numbers, such as method.alpha; init.method.alpha is of the trial that a
           cell starts from
    """
    results = {cell.labels: cell for cell in collect(spec, records).cells}
    rows = []
    for cell in (cell for cell in spec.cells if cell.trials):
        at = [setting(cell, key) for key in (x, y)]
        if all(value is None for value in at):
            continue
        for key, value in zip((x, y), at, strict=True):
            if isinstance(value, bool) or not isinstance(value, int | float):
                found = f"{key} is {value!r} in the cell '{cell.row}'"
                raise FigureError(f"{found}; valid: keys of two numbers")
        result = results[cell.labels]
        mean = result.ours.mean if result.ours else np.nan
        rows.append((float(at[0]), float(at[1]), cell.row, len(result.finished), mean))
    frame = pd.DataFrame(rows, columns=["x", "y", "cell", "n", "mean"])
    twice = frame[frame.duplicated(["x", "y"])]
    if frame.empty or len(twice):
        found = f"two cells have {x} = {twice.iloc[0]['x']}" if len(twice) else f"no cell has {x}"
        raise FigureError(f"{found} and the same {y}" if len(twice) else f"{found} and {y}")
    return frame.sort_values(["y", "x"], ignore_index=True)


def draw(spec: Spec, records: pd.DataFrame, *, x: str, y: str) -> Figure:
    """A field for each pair, its number in it; empty where no seed has finished."""
    frame = data(spec, records, x=x, y=y)
    table = frame.pivot(index="y", columns="x", values="mean")
    figure = Figure(figsize=(1.9 + 0.6 * len(table.columns), 1.3 + 0.45 * len(table)))
    axes = figure.subplots()
    colours = axes.imshow(table, origin="lower", aspect="auto", cmap="Blues")
    middle = (frame["mean"].min() + frame["mean"].max()) / 2
    for (row, column), value in np.ndenumerate(table.to_numpy()):
        if not np.isnan(value):
            ink = "white" if value > middle else "black"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=ink, fontsize=8)
    axes.set_xticks(range(len(table.columns)), [f"{value:g}" for value in table.columns])
    axes.set_yticks(range(len(table)), [f"{value:g}" for value in table.index])
    axes.grid(visible=False)
    axes.set_xlabel(x.rpartition(".")[2].replace("_", " "))
    axes.set_ylabel(y.rpartition(".")[2].replace("_", " "))
    if frame["mean"].notna().any():
        figure.colorbar(colours, label=axis_title(spec.metric.name))
    if missing := int((frame["n"] == 0).sum()):
        sentence = f"{missing} of {len(frame)} fields have no finished seed yet"
        figure.supxlabel(sentence, fontsize=8, color=MUTED)
    return figure
