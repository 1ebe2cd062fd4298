"""Class activation maps, method by method: each picture, and the map of each of its classes under
it (the paper's Fig. 6).
"""

import io
from collections.abc import Sequence

import matplotlib.image
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analysis.collect import collect
from analysis.figures import MUTED, Artifacts, Curves
from analysis.table import CellResult
from launch.spec.load import Spec

Panels = list[NDArray[np.float32]]
"""Of one picture: itself, then a map a class; (S, S, 3) in [0, 1]."""


def data(
    spec: Spec,
    records: pd.DataFrame,
    *,
    curves: Curves,
    artifacts: Artifacts,
    pictures: Sequence[int] = (1, 2, 3),
) -> pd.DataFrame:
    """Columns cell, picture (from 1), class (its index), share (% of the map inside the boxes)."""
    cells = {_run_id(cell, records): cell.row for cell in collect(spec, records).cells}
    columns = ["run_id", "epoch"]
    frame = curves("share").rename(columns={"value": "share"})
    for name in ("picture", "class"):
        frame = frame.merge(curves(name).rename(columns={"value": name}), on=columns)
    frame = frame.assign(cell=frame["run_id"].map(cells)).dropna(subset=["cell"])
    frame = frame[frame["picture"].isin(pictures)].astype({"picture": int, "class": int})
    order = {label: place for place, label in enumerate(cells.values())}
    frame = frame.assign(place=frame["cell"].map(order)).sort_values(["place", "epoch"])
    return frame[["cell", "picture", "class", "share"]].reset_index(drop=True)


def draw(
    spec: Spec,
    records: pd.DataFrame,
    *,
    curves: Curves,
    artifacts: Artifacts,
    pictures: Sequence[int] = (1, 2, 3),
) -> Figure:
    """A row a method; of each picture itself and a map a class, with its share.

    pictures   numbers of those that are drawn, in the order of `pictures.json`
    """
    cells = collect(spec, records).cells
    rows = {cell.row: _panels(cell, records, artifacts, pictures) for cell in cells}
    done = {label: panels for label, panels in rows.items() if panels}
    frame = data(spec, records, curves=curves, artifacts=artifacts, pictures=pictures)
    count = max((sum(map(len, panels)) for panels in done.values()), default=1)
    figure = Figure(figsize=(max(3.0, 0.9 * count), 0.95 * max(len(done), 1) + 0.5))
    grid = figure.subplots(max(len(done), 1), count, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for (label, panels), row in zip(done.items(), grid, strict=False):
        shares = iter(frame[frame["cell"] == label]["share"])
        drawn = [(panel, number > 0) for each in panels for number, panel in enumerate(each)]
        for axes, (panel, is_map) in zip(row, drawn, strict=False):
            axes.imshow(panel, interpolation="nearest")
            if is_map:
                axes.set_title(f"{next(shares, float('nan')):.0f}%", fontsize=7, color=MUTED)
        place = {"transform": row[0].transAxes, "ha": "right", "va": "center"}
        row[0].text(-0.08, 0.5, label, fontsize=8.5, **place)
    missing = [label for label in rows if label not in done]
    if missing:
        figure.supxlabel(f"no finished run yet: {', '.join(missing)}", fontsize=8, color=MUTED)
    return figure


def _run_id(cell: CellResult, records: pd.DataFrame) -> str | None:
    """The MLflow run of a cell's first finished seed."""
    if not cell.finished:
        return None
    return str(records.loc[records["trial_id"] == cell.finished[0].trial_id, "run_id"].iloc[0])


def _panels(
    cell: CellResult, records: pd.DataFrame, artifacts: Artifacts, pictures: Sequence[int]
) -> list[Panels]:
    """Of each picture, where the run is finished and kept it."""
    run_id = _run_id(cell, records)
    found: list[Panels] = []
    for number in pictures if run_id is not None else ():
        content = artifacts(str(run_id), f"cam{number}.png")
        if content is not None:
            strip = matplotlib.image.imread(io.BytesIO(content), format="png")[..., :3]
            side = strip.shape[0]
            found.append([strip[:, x : x + side] for x in range(0, strip.shape[1], side)])
    return found
