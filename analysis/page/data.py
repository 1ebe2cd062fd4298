"""What the page's script draws on demand: per-seed values, and learning curves thinned to what a
screen can show.
"""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from analysis.table import SELECTION_NAMES, CellResult, SeedResult

if TYPE_CHECKING:
    from analysis.page.view import View

MOST_POINTS = 60
"""Points of a learning curve on the page; the figures' files have them all."""
LOCAL_SERVER = "http://127.0.0.1:5000/#/experiments/"
"""Where `make mlflow` shows a local store."""

CellCurves = Mapping[int, float]
"""One trial's learning curve: epoch -> value."""


Curves = Mapping[tuple[str, str], CellCurves]
"""By metric, as `top1_error`, and trial id."""


def page_data(
    views: Iterable["View"], curves: Curves, folder: Path, results: Path
) -> dict[str, Any]:
    """Everything that page.js reads: cells by their id, panels of curves by table, machines once
    each.
    """
    machines: dict[str, int] = {}
    server: str | None = None
    cells: dict[str, dict[str, Any]] = {}
    panels: dict[str, list[tuple[str, list[str]]]] = {}
    heads: dict[str, list[str]] = {}
    for view in views:
        metric, select = view.table.metric, view.table.spec.metric.select
        order = [name for name in SELECTION_NAMES if name in (select, *view.others)]
        heads[view.slug] = [_head(name) for name in order]
        for id, cell in view.cells:
            server = server or next((_server(seed.link) for seed in cell.seeds if seed.link), None)
            seeds = [_seed(seed, order, machines, results) for seed in cell.seeds]
            cells[id] = {"name": cell.labels[-1], "published": cell.published, "seeds": seeds}
            if metric.better == "higher":
                cells[id]["higher"] = 1
            cells[id] |= _lines(cell, metric.name, order, curves)
        rows = view.table.rows if view.table.is_grid else ("",)
        panels[view.slug] = [
            (row, [id for id, cell in view.cells if not row or cell.row == row]) for row in rows
        ]
    return {
        "cells": cells,
        "panels": panels,
        "machines": list(machines),
        "heads": heads,
        "runs": quote(Path(os.path.relpath(results / "runs", folder)).as_posix()) + "/",
        "mlflow": server or LOCAL_SERVER,
        "hint": "" if server else "shown by: make mlflow",
    }


def _head(select: str) -> str:
    return SELECTION_NAMES[select].replace(" epoch", "").capitalize()


def thin(curve: Mapping[int, float], epochs: Sequence[int]) -> list[float | None]:
    """The curve at these epochs, to two decimals; None where it has no value."""
    return [
        round(curve[epoch], 2) if epoch in curve and math.isfinite(curve[epoch]) else None
        for epoch in epochs
    ]


def shown_epochs(curves: Iterable[Mapping[int, float]]) -> list[int]:
    """At most MOST_POINTS epochs, evenly apart, the first and the last of all curves among
    them.
    """
    every = sorted({epoch for curve in curves for epoch in curve})
    if len(every) <= MOST_POINTS:
        return every
    return sorted(
        {every[round(i * (len(every) - 1) / (MOST_POINTS - 1))] for i in range(MOST_POINTS)}
    )


def _lines(cell: CellResult, metric: str, order: Sequence[str], curves: Curves) -> dict[str, Any]:
    """The cell's learning curves, ours and the authors', and what the authors' logs end with."""
    data: dict[str, Any] = {}
    ours = [
        (seed.seed, curves[metric, seed.trial_id])
        for seed in cell.seeds
        if curves.get((metric, seed.trial_id))
    ]
    runs = [run for run in cell.official if run.curve(metric)]
    if ours:
        epochs = shown_epochs(curve for _, curve in ours)
        data["curves"] = {
            "s": [seed for seed, _ in ours],
            "e": epochs,
            "v": [thin(curve, epochs) for _, curve in ours],
        }
    if runs:
        epochs = shown_epochs(run.curve(metric) for run in runs)
        data["theirs"] = [{"e": epochs, "v": thin(run.curve(metric), epochs)} for run in runs]
        finals = [(run.name, run.finals(metric)) for run in runs]
        data["authors"] = [
            (name, [round(values[key], 2) if key in values else None for key in order])
            for name, values in finals
        ]
    return data


def _seed(
    seed: SeedResult, order: Sequence[str], machines: dict[str, int], results: Path
) -> list[Any]:
    """[seed, state, values or null, trial, run, folder, machine, origin, former numerics], without
    what is empty at the end.
    """
    values = (
        [round(seed.values[name], 3) if name in seed.values else None for name in order]
        if seed.values
        else None
    )
    run = f"{seed.experiment_id}/runs/{seed.run_id}" if seed.run_id and seed.experiment_id else 0
    machine = None
    if seed.host or seed.device:
        text = ", ".join(part for part in (seed.device, seed.host) if part)
        machine = machines.setdefault(text, len(machines))
    parts = [
        seed.seed,
        seed.state,
        values,
        seed.trial_id,
        run,
        _folder(seed, results),
        machine,
        seed.origin,
        seed.numerics,
    ]
    while parts[-1] is None:
        parts.pop()
    return parts


def _folder(seed: SeedResult, results: Path) -> str | int:
    """1 for the run directory in its usual place, where a link moves with the page; else its path
    as text.
    """
    if not seed.run_dir:
        return 0
    path = Path(seed.run_dir)
    path = path if path.is_absolute() else results.parent / path
    return 1 if path == results / "runs" / seed.trial_id else seed.run_dir


def _server(link: str | None) -> str | None:
    """The part of a run's link that is common to all runs of the server."""
    return (
        link.split("#/experiments/")[0] + "#/experiments/"
        if link and "#/experiments/" in link
        else None
    )
