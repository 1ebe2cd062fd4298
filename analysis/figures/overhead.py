"""What each method costs over the baseline, in percent: ours with the standard deviation of its
runs, the paper's beside it.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.collect import collect
from analysis.figures import INK, MUTED, PALETTE, PAPER, FigureError
from analysis.table import CellResult
from launch.spec.load import Spec

Published = Mapping[str, Sequence[float]]
Units = Mapping[str, Sequence[str]]


def data(
    spec: Spec,
    records: pd.DataFrame,
    *,
    published: Published | None = None,
    units: Units | None = None,
) -> pd.DataFrame:
    """A row for each cell of a grid of quantities by methods, with the absolute numbers behind the
    percentages.

    published   quantity -> the paper's own numbers, one for each method
    units       quantity -> [ours, the paper's], for the numbers beside the points
    Columns: quantity, method, n, overhead (%), std, published_overhead, value, reference,
    published.
    """
    table = collect(spec, records)
    if not table.is_grid:
        raise FigureError(
            f"needs two axes, quantity by method; {spec.path.name} has {', '.join(spec.axes)}"
        )
    for option, values in (("published", published), ("units", units)):
        if unknown := sorted(set(values or {}) - set(table.rows)):
            raise FigureError(
                f"{option}: no quantity '{unknown[0]}'; valid: {', '.join(table.rows)}"
            )
    rows = [_row(cell, records, table.columns, published or {}) for cell in table.cells]
    return pd.DataFrame(rows)


def _row(
    cell: CellResult, records: pd.DataFrame, methods: Sequence[str], published: Published
) -> dict[str, Any]:
    numbers = published.get(cell.row, [math.nan] * len(methods))
    if len(numbers) != len(methods):
        raise FigureError(
            f"published: '{cell.row}' has {len(numbers)} numbers for {len(methods)} methods"
        )
    runs = records[records["trial_id"].isin([seed.trial_id for seed in cell.finished])]
    own = {
        key: runs.get(f"measured_{key}", pd.Series(dtype=float)).mean()
        for key in ("value", "reference")
    }
    return {
        "quantity": cell.row,
        "method": cell.column,
        "n": len(cell.finished),
        "overhead": cell.ours.mean if cell.ours else math.nan,
        "std": math.nan if cell.ours is None or cell.ours.std is None else cell.ours.std,
        "published_overhead": math.nan if cell.published is None else cell.published,
        **own,
        "published": float(numbers[methods.index(cell.column)]),
    }


def draw(
    spec: Spec,
    records: pd.DataFrame,
    *,
    published: Published | None = None,
    units: Units | None = None,
) -> Figure:
    """A panel for each quantity, a line in it for each method: ours a dot, the paper's a diamond,
    the absolute numbers beside.
    """
    frame = data(spec, records, published=published, units=units)
    quantities, methods = (list(dict.fromkeys(frame[key])) for key in ("quantity", "method"))
    figure = Figure(figsize=(7.2, 0.6 + len(quantities) * (0.55 + 0.2 * len(methods))))
    grid = figure.subplots(len(quantities), 1, squeeze=False)
    for quantity, axes in zip(quantities, grid.flat, strict=True):
        unit, paper_unit = (units or {}).get(quantity, ("", ""))
        _panel(
            axes,
            frame[frame["quantity"] == quantity].to_dict("records"),
            f" {unit}".rstrip(),
            f" {paper_unit}".rstrip(),
        )
        axes.set_title(quantity)
    grid[-1, 0].set_xlabel("% over the baseline")
    missing = frame[frame["n"] == 0]
    if len(missing):
        text = "; ".join(
            f"{row['quantity']}: {row['method']}" for row in missing.to_dict("records")
        )
        sentence = (
            "nothing has been measured yet"
            if len(missing) == len(frame)
            else f"not measured yet: {text}"
        )
        figure.supxlabel(sentence, fontsize=8, color=MUTED, wrap=True)
    handles = {
        label: handle
        for axes in grid.flat
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    if handles:
        figure.legend(list(handles.values()), list(handles), loc="outside upper left", ncols=2)
    return figure


def _panel(axes: Axes, rows: list[dict[Any, Any]], unit: str, paper_unit: str) -> None:
    for place, row in enumerate(rows):
        if row["n"]:
            spread = 0.0 if math.isnan(row["std"]) else row["std"]
            label = "ours, mean ± standard deviation" if any(r["n"] > 1 for r in rows) else "ours"
            axes.errorbar(
                row["overhead"],
                place,
                xerr=spread,
                fmt="o",
                color=PALETTE[0],
                label=label,
                zorder=4,
            )
        if not math.isnan(row["published_overhead"]):
            style: dict[str, Any] = {
                "marker": "D",
                "markerfacecolor": PAPER,
                "markeredgecolor": INK,
                "linestyle": "none",
            }
            axes.plot(row["published_overhead"], place, label="published", zorder=3, **style)
        texts = (
            [f"{_short(row['value'])}{unit}"] if row["n"] and not math.isnan(row["value"]) else []
        )
        texts += (
            []
            if math.isnan(row["published"])
            else [f"paper {_short(row['published'])}{paper_unit}"]
        )
        at: dict[str, Any] = {"xytext": (6, 0), "textcoords": "offset points", "va": "center"}
        place_of: Any = ("axes fraction", "data")
        text = "  ·  ".join(texts)
        axes.annotate(
            text,
            (1.0, place),
            xycoords=place_of,
            fontsize=8,
            color=MUTED,
            annotation_clip=False,
            **at,
        )
    axes.axvline(0, color=MUTED, linewidth=0.8)
    axes.set_yticks(range(len(rows)), [row["method"] for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, -1), max(high, 1))  # differences that do not matter should look so


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"
