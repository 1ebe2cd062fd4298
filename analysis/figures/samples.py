"""What each method shows the network, and how RecursiveMix nests the images of its iterations,
with their labels.
"""

import io
from collections.abc import Sequence
from typing import Any

import matplotlib.image
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from numpy.typing import NDArray

from analysis.collect import collect
from analysis.figures import INK, MUTED, PALETTE, Artifacts, Curves, FigureError
from analysis.table import CellResult
from launch.spec.load import Spec

Picture = NDArray[np.float32]


def data(
    spec: Spec,
    records: pd.DataFrame,
    *,
    curves: Curves,
    artifacts: Artifacts,
    recursion: str | None = None,
    positions: Sequence[int] = (0, 3),
) -> pd.DataFrame:
    """Columns cell, iteration, changed (% of the pixels), area (of the label that is of earlier
    images).

    recursion   the row whose iterations are drawn one by one; null: of none
    positions   which images of the batch are followed there
    """
    cells = {
        _run_id(cell, records): " · ".join(cell.labels) for cell in collect(spec, records).cells
    }
    changed, area = curves("changed"), curves("area")
    frame = changed.merge(area, on=["run_id", "epoch"], how="left", suffixes=("", "_area"))
    frame = frame.assign(cell=frame["run_id"].map(cells)).dropna(subset=["cell"])
    order = {label: place for place, label in enumerate(cells.values())}
    frame = frame.sort_values(
        ["cell", "epoch"],
        key=lambda column: column.map(order) if column.name == "cell" else column,
    )
    columns = {"epoch": "iteration", "value": "changed", "value_area": "area"}
    return frame.rename(columns=columns)[["cell", "iteration", "changed", "area"]].reset_index(
        drop=True
    )


def draw(
    spec: Spec,
    records: pd.DataFrame,
    *,
    curves: Curves,
    artifacts: Artifacts,
    recursion: str | None = None,
    positions: Sequence[int] = (0, 3),
) -> Figure:
    """Above, a row of images for each method at the last iteration; below, the recursion with its
    labels.
    """
    cells = {" · ".join(cell.labels): cell for cell in collect(spec, records).cells}
    if recursion is not None and recursion not in cells:
        raise FigureError(f"recursion: no row '{recursion}'; valid: {', '.join(cells)}")
    frame = data(
        spec, records, curves=curves, artifacts=artifacts, recursion=recursion, positions=positions
    )
    steps = {label: _steps(cell, records, artifacts) for label, cell in cells.items()}
    done = [label for label in cells if steps[label]]
    missing = [label for label in cells if not steps[label]]
    begun = steps[recursion] if recursion is not None else []
    followed = [p for p in positions if begun and p < begun[0][0].shape[0]]
    heights = [
        0.8 * max(len(done), 1) + 0.4,
        2.55 * len(followed) + 0.45 * (recursion is not None),
    ]
    figure = Figure(figsize=(7.4, sum(heights) + (0.3 if missing else 0)))
    layout: Any = figure.get_layout_engine()
    layout.set(w_pad=0.04, h_pad=0.02, hspace=0.0, wspace=0.0)
    ratios = heights[: 1 + bool(followed)]
    parts: list[SubFigure] = list(
        figure.subfigures(len(ratios), 1, squeeze=False, height_ratios=ratios)[:, 0]
    )
    _methods(parts[0], {label: steps[label][-1][1] for label in done})
    if followed and recursion is not None:
        areas = frame[frame["cell"] == recursion]["area"].fillna(0.0).tolist()
        _recursion(parts[1], recursion, steps[recursion], followed, masses(areas))
    if missing:
        figure.supxlabel(f"no finished run yet: {', '.join(missing)}", fontsize=8, color=MUTED)
    return figure


def masses(areas: Sequence[float]) -> list[list[float]]:
    """How much of the label of each iteration is of the image of each iteration so far (Eq. 2),
    from the pasted areas.
    """
    shares: list[list[float]] = []
    for area in areas:
        earlier = [area * mass for mass in (shares[-1] if shares else [])]
        shares.append([*earlier, 1 - area if shares else 1.0])
    return shares


def _methods(figure: SubFigure, pictures: dict[str, Picture]) -> None:
    """A row of images for each method; the same places of the batch in every row."""
    figure.suptitle(
        "One batch, as each method shows it to the network",
        x=0.012,
        ha="left",
        fontsize=9,
        fontweight="bold",
    )
    if not pictures:
        return
    columns = max(len(batch) for batch in pictures.values())
    grid = figure.subplots(
        len(pictures), columns, squeeze=False, gridspec_kw={"wspace": 0.03, "hspace": 0.03}
    )
    for (label, batch), row in zip(pictures.items(), grid, strict=True):
        for axes in row:
            axes.set_axis_off()
        for picture, axes in zip(batch, row, strict=False):
            _show(axes, picture)
        row[0].text(
            -0.12, 0.5, label, transform=row[0].transAxes, ha="right", va="center", fontsize=8.5
        )


def _recursion(
    figure: SubFigure,
    name: str,
    steps: list[tuple[Picture, Picture]],
    positions: Sequence[int],
    shares: list[list[float]],
) -> None:
    """For each followed place of the batch: the image that comes in, what the network sees, and
    the label as a bar.
    """
    title = (
        f"{name} over {len(steps)} iterations: what was shown is pasted, resized, into what "
        "comes next"
    )
    figure.suptitle(title, x=0.012, ha="left", fontsize=9, fontweight="bold")
    ratios = [0.62, 1.0, 0.13, 0.12] * len(positions)  # the last is a gap
    grid = figure.subplots(
        len(ratios), len(steps), squeeze=False, gridspec_kw={"height_ratios": ratios}
    )
    for block, position in enumerate(positions):
        rows = grid[4 * block : 4 * block + 4]
        for axes in rows[3]:
            axes.set_axis_off()
        for step, (incoming, shown) in enumerate(steps):
            _show(rows[0, step], incoming[position], frame=PALETTE[step % len(PALETTE)])
            _show(rows[1, step], shown[position])
            _bar(rows[2, step], shares[step] if step < len(shares) else [])
            if block == 0:
                rows[0, step].set_title(
                    f"iteration {step + 1}", loc="center", fontsize=8.5, fontweight="normal"
                )
        for axes, text in zip(rows[:3, 0], ("new image", "network sees", "label"), strict=True):
            place = (-0.06, 0.5) if text == "label" else (-0.12, 0.5)
            axes.text(
                *place, text, transform=axes.transAxes, ha="right", va="center", fontsize=8.5
            )


def _show(axes: Axes, picture: Picture, frame: str | None = None) -> None:
    axes.imshow(picture, interpolation="nearest")
    axes.grid(visible=False)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(frame is not None)
        spine.set_color(frame or INK)
        spine.set_linewidth(2.2)


def _bar(axes: Axes, shares: Sequence[float]) -> None:
    """The label: a part for the image of each iteration, in the colour of its frame."""
    start = 0.0
    for step, share in reversed(list(enumerate(shares))):
        axes.barh(0, share, left=start, height=1, color=PALETTE[step % len(PALETTE)], linewidth=0)
        if share >= 0.12:
            axes.text(
                start + share / 2,
                0,
                f"{share:.0%}",
                ha="center",
                va="center",
                fontsize=7,
                color="white",
            )
        start += share
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.5, 0.5)
    axes.set_axis_off()


def _run_id(cell: CellResult, records: pd.DataFrame) -> str | None:
    """The MLflow run of a cell's first finished seed."""
    if not cell.finished:
        return None
    return str(records.loc[records["trial_id"] == cell.finished[0].trial_id, "run_id"].iloc[0])


def _steps(
    cell: CellResult, records: pd.DataFrame, artifacts: Artifacts
) -> list[tuple[Picture, Picture]]:
    """(incoming, shown) of each iteration, each (N, H, W, 3) in [0, 1]; none where there is no
    finished run.
    """
    run_id = _run_id(cell, records)
    steps: list[tuple[Picture, Picture]] = []
    while run_id is not None:
        content = artifacts(run_id, f"step{len(steps) + 1}.png")
        if content is None:
            break
        both = matplotlib.image.imread(io.BytesIO(content), format="png")[..., :3]
        side = both.shape[0] // 2
        images = both.reshape(2, side, -1, side, 3).swapaxes(1, 2)
        steps.append((images[0], images[1]))
    return steps
