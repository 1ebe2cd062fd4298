"""The committed records, `results/reproduced/*.jsonl`, as rows and curves like those that the
tracking store gives.

So a fresh clone shows what it came with, before anything was mirrored, and so does a report from
somebody else's store.
"""

import json
import re
from collections.abc import Collection, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from analysis.paths import ROOT, results_dir

Record = dict[str, Any]
PREFIX = "committed-"
"""How the run id of a committed record begins, in place of the store's."""

_ID = re.compile(rb'^\{"id": ?"([0-9a-f]{12})"')


def rows(trial_ids: Collection[str], folder: Path | None = None) -> dict[str, Record]:
    """By trial id what the store would say of each; a line that is not asked for is not parsed."""
    return {record["id"]: row(record) for record in read(trial_ids, folder)}


def curves(
    run_ids: Iterable[str], metric: str, folder: Path | None = None
) -> dict[str, list[tuple[int, float]]]:
    """(epoch, value) of each of these runs that is a committed record."""
    wanted = {run_id.removeprefix(PREFIX) for run_id in run_ids if run_id.startswith(PREFIX)}
    points_of: dict[str, list[tuple[int, float]]] = {}
    for record in read(wanted, folder):
        columns = record["epochs"]
        numbers = columns.get("epoch", ())
        if metric not in columns:  # of a probe: its points
            columns = record.get("points", {})
            numbers = columns.get("point", ())
        points = zip(numbers, columns.get(metric, ()), strict=False)
        points_of[f"{PREFIX}{record['id']}"] = [
            (int(epoch), float(value)) for epoch, value in points if value is not None
        ]
    return points_of


def read(trial_ids: Collection[str], folder: Path | None = None) -> Iterator[Record]:
    """The records of these trials, file by file."""
    if not trial_ids:
        return
    runs = results_dir() / "runs"
    wanted = {name for name in trial_ids if folder or not (runs / name / "again").exists()}
    for each in [folder] if folder else _folders():
        for path in sorted(each.glob("*.jsonl")):
            for line in path.read_bytes().splitlines():
                match = _ID.match(line)
                if match and (name := match[1].decode()) in wanted:
                    wanted.remove(name)
                    yield json.loads(line)


def _folders() -> list[Path]:
    """The results folder's own, and the clone's wherever that is; see launch/runs/committed.py."""
    return list(dict.fromkeys(place / "reproduced" for place in (results_dir(), ROOT / "results")))


def ended(record: Record) -> float:
    """When its last epoch, or point, was journalled, in seconds since 1970."""
    times = [*record["epochs"].get("time", ()), *record.get("points", {}).get("time", ())]
    return float(max(times, default=record["events"][-1]["time"] if record.get("events") else 0))


def commit(attempt: Record) -> str:
    """The commit that an attempt ran from, marked where the working tree differed from it."""
    known = attempt.get("git_commit")
    return f"{known}{'+changes' if attempt.get('git_diff') else ''}" if known else "unknown"


def row(record: Record) -> Record:
    """A committed record as the store would give it."""
    last, result = record["attempts"][-1], record["result"]
    end = ended(record)
    versions = ", ".join(
        f"{name} {version}" for name, version in (last.get("packages") or {}).items()
    )
    return {
        "trial_id": record["id"],
        "seed": result["seed"],
        "status": "FINISHED",
        "run_id": f"{PREFIX}{record['id']}",
        "origin": "reproduced",
        "host": last.get("host"),
        "device": last.get("device"),
        "git_commit": commit(last),
        "versions": versions,
        **result["metrics"],
        "train_seconds": result["train_seconds"],
        "ended": datetime.fromtimestamp(end, UTC).isoformat(timespec="seconds"),
        "started": int(1000 * record["events"][0]["time"]) if record.get("events") else 0,
        "end": int(1000 * end),
    }
