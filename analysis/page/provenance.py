"""Where the numbers on a page come from."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pandas as pd

from analysis.page.sentences import hours_of
from analysis.table import Table

KEYS = ("git_commit", "host", "device", "versions", "origin")


def provenance(tables: Sequence[Table]) -> dict[str, Any]:
    """Where the records come from: commits, machines, versions with their number of runs, what
    trials start from, hours, the latest end.
    """
    if not tables:
        return {**{key: [] for key in KEYS}, "sources": [], "hours": [], "latest": None}
    records = pd.concat([table.records for table in tables]).drop_duplicates("trial_id")
    counted: dict[str, Any] = {
        key: Counter(map(str, records[key].dropna())).most_common() if key in records else []
        for key in KEYS
    }
    ended = sorted(records["ended"].dropna())
    seconds = {"GPU time": 0.0, "CPU time": 0.0}
    for device, spent in zip(records["device"], records["train_seconds"], strict=True):
        if isinstance(spent, int | float) and spent == spent:
            kind, devices = _kind(device)
            seconds[kind] += spent * devices
    hours = [(kind, hours_of(spent)) for kind, spent in seconds.items() if spent]
    return counted | {
        "hours": hours,
        "sources": _sources(tables),
        "latest": str(ended[-1]).replace("T", " ")[:16] if ended else None,
    }


def _kind(device: Any) -> tuple[str, int]:
    """What a run's time is counted as, and on how many devices it was spent: "2 x NVIDIA H200" has
    two.
    """
    text = str(device or "cpu")
    several = re.match(r"(\d+)\s*[x×]\s", text)
    if re.search(r"cpu|intel|amd|xeon|epyc", text, re.IGNORECASE):
        return "CPU time", 1
    return "GPU time", int(several[1]) if several else 1


def _sources(tables: Sequence[Table]) -> list[tuple[str, int]]:
    """What trials start from other than from their seed: pre-trained trials by id, with the row
    that names them where one of these tables shows it, and files of weights; with the number of
    cells.
    """
    rows = {
        seed.trial_id: f"{table.spec.name} · {' · '.join(cell.labels)}"
        for table in tables
        for cell in table.cells
        for seed in cell.seeds
    }
    cells = {(table.slug, cell.labels): cell for table in tables for cell in table.cells}
    counts = Counter(source for cell in cells.values() for source in cell.sources)
    return [
        (f"{source} ({row})" if (row := rows.get(_parent(source))) else source, n)
        for source, n in counts.most_common()
    ]


def _parent(source: str) -> str:
    """The id in "trial 0123456789ab, best weights"."""
    return source.removeprefix("trial ").partition(",")[0]
