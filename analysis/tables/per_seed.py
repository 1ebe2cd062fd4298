"""A line for each seed of each cell: what one computes with oneself."""

from collections.abc import Iterator
from typing import Any

import pandas as pd

from analysis.table import CellResult, SeedResult, Table
from rm.metrics import SELECTIONS

_TEXTS = ("spec", "profile", "metric", "select", "state", "trial", "device", "host", "run_dir")
_WHOLE = ("seed",)


def to_seeds(table: Table) -> pd.DataFrame:
    """Columns: spec, profile ("full" of the paper's own table), one for each axis, metric, seed,
    trial (its id), state, select and value (the one that counts), best, last and median_last_10
    (or measured), published, device, host, run_dir; numbers in full precision, NaN where a trial
    has not finished.
    """
    rows = [_row(table, cell, seed) for cell in table.cells for seed in cell.seeds]
    frame = pd.DataFrame(rows, columns=_columns(table))
    texts = {*_TEXTS, *table.spec.axes}
    return frame.astype(
        {c: "str" if c in texts else "int64" if c in _WHOLE else "float64" for c in frame}
    )


def to_seeds_csv(table: Table) -> str:
    text: str = to_seeds(table).to_csv(index=False, lineterminator="\n")
    return text


def _columns(table: Table) -> list[str]:
    return list(dict(_entries(table, None, None)))


def _row(table: Table, cell: CellResult, seed: SeedResult) -> dict[str, Any]:
    return dict(_entries(table, cell, seed))


def _entries(
    table: Table, cell: CellResult | None, seed: SeedResult | None
) -> Iterator[tuple[str, Any]]:
    spec = table.spec
    yield "spec", spec.name
    yield "profile", spec.variant or "full"
    yield from zip(spec.axes, cell.labels if cell else spec.axes, strict=True)
    yield "metric", spec.metric.name
    yield "seed", seed.seed if seed else 0
    yield "trial", seed.trial_id if seed else ""
    yield "state", seed.state if seed else ""
    values = seed.values if seed else {}
    yield "select", spec.metric.select
    yield "value", values.get(spec.metric.select)
    for selection in () if table.is_measured else SELECTIONS:
        yield selection, values.get(selection)
    yield "published", cell.published if cell else None
    for name in ("device", "host", "run_dir"):
        yield name, (getattr(seed, name) or "") if seed else ""
