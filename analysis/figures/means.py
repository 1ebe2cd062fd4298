"""A table's cells as points: each one's mean with its standard deviation, every seed a small
point, the paper's number a diamond.
"""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.collect import collect
from analysis.figures import INK, MUTED, PALETTE, PAPER, axis_title
from launch.spec.load import Spec


def data(spec: Spec, records: pd.DataFrame) -> pd.DataFrame:
    """A row for each finished seed, and one without a seed for a cell that has none: cell, seed,
    value, mean, std, published.
    """
    rows: list[dict[str, Any]] = []
    for cell in collect(spec, records).cells:
        ours = cell.ours
        own = {
            "cell": cell.row,
            "mean": ours.mean if ours else np.nan,
            "std": np.nan if ours is None or ours.std is None else ours.std,
            "published": np.nan if cell.published is None else cell.published,
        }
        seeds = [
            {"seed": one.seed, "value": one.values[spec.metric.select]} for one in cell.finished
        ]
        rows += [own | seed for seed in seeds or [{}]]
    frame = pd.DataFrame(rows, columns=["cell", "seed", "value", "mean", "std", "published"])
    return frame.astype({"seed": "Int64", "value": float})


def draw(spec: Spec, records: pd.DataFrame) -> Figure:
    """A line for each cell, in the order of the table."""
    frame = data(spec, records)
    cells = list(dict.fromkeys(frame["cell"]))
    figure = Figure(figsize=(4.7, 1.1 + 0.32 * len(cells)))
    axes = figure.subplots()
    paper: dict[str, Any] = {"marker": "D", "markerfacecolor": PAPER, "markeredgecolor": INK}
    for place, (_, rows) in enumerate(frame.groupby("cell", sort=False)):
        cell = rows.iloc[0]
        if not np.isnan(cell["published"]):
            axes.plot(cell["published"], place, linestyle="none", label="published", **paper)
        if np.isnan(cell["mean"]):
            continue
        axes.plot(rows["value"], [place] * len(rows), ".", color=PALETTE[0], alpha=0.4)
        spread = 0.0 if np.isnan(cell["std"]) else cell["std"]
        label = "ours, mean ± standard deviation" if frame["std"].notna().any() else "ours"
        axes.errorbar(
            cell["mean"], place, xerr=spread, fmt="o", color=PALETTE[0], label=label, zorder=3
        )
    axes.set_yticks(range(len(cells)), cells)
    axes.set_ylim(len(cells) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(axis_title(spec.metric.name))
    missing = list(dict.fromkeys(frame[frame["mean"].isna()]["cell"]))
    if missing:
        text = f"no finished seed yet: {', '.join(missing)}"
        figure.supxlabel(text, fontsize=8, color=MUTED, wrap=True)
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        known = dict(zip(labels, handles, strict=True))
        figure.legend(list(known.values()), list(known), loc="outside upper left", ncols=2)
    return figure
