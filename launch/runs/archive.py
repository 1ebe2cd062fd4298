"""Finished runs as committed JSON lines, `results/reproduced/<name>.jsonl`: checked on the way in,
run directories on the way out.

A line holds the trial, its uses, its attempts (a source diff as its hash), its events, the epochs
of a training or the points of a measurement column by column, the result; no weights and no
pictures. What is restored from it is finished for every plan and is mirrored like any other run.
`origin.json` in such a run directory says where it came from.
"""

import hashlib
import json
import math
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from statistics import median
from typing import Any

from launch.runs import folder as folders
from launch.runs import journal, rundir
from launch.runs.rundir import RunDir
from launch.spec.trial import Trial, trial_id
from rm import registry
from rm.files import write_atomically
from rm.metrics import Metric, select

_ID = re.compile(rb'^\{"id": ?"([0-9a-f]{12})"')
_NUMERICS = re.compile(rb'"numerics": ?(\d+)')
Record = dict[str, Any]


class RecordError(ValueError):
    """A run that cannot be recorded; the message says which and what is wrong with it."""


def read_run(run_dir: Path) -> dict[str, bytes]:
    """The small files of a run directory, by name; those that are not there are left out."""
    return {
        name: (run_dir / name).read_bytes()
        for name in rundir.RECORD_FILES
        if (run_dir / name).is_file()
    }


def make_record(files: Mapping[str, bytes], where: str) -> Record:
    """The record of a finished run from its files, after all checks; RecordError names `where` it
    came from.
    """
    for name in rundir.RECORD_FILES:
        if name not in files and name != rundir.USES:
            raise RecordError(f"{where}: has no {name}")
    try:
        trial, attempts, result = (
            json.loads(files[name]) for name in (rundir.TRIAL, rundir.PROVENANCE, rundir.RESULT)
        )
        events = [json.loads(line) for line in files[rundir.JOURNAL].splitlines() if line]
        uses = [json.loads(line) for line in files.get(rundir.USES, b"").splitlines() if line]
        _check_trial(trial, where)
        _check_events(trial, events, where)
        _check_result(trial, events, result, where)
        if not attempts:
            raise RecordError(f"{where}: provenance.json names no attempt")
        curve = _columns(list(journal.curve(events).values()))
        others = [
            event for event in events if event["event"] not in ("epoch", "point", "checkpoint")
        ]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        if isinstance(error, RecordError):
            raise
        raise RecordError(
            f"{where}: not the files of a finished run ({type(error).__name__}: {error})"
        ) from None
    return {
        "id": trial["id"],
        "label": uses[0]["label"] if uses else trial["id"],
        "trial": trial,
        "uses": uses,
        "attempts": [
            {**attempt, "git_diff": _hashed(attempt.get("git_diff"))} for attempt in attempts
        ],
        "events": others,
        **({"epochs": {}, "points": curve} if "probe" in trial else {"epochs": curve}),
        "result": result,
    }


def _check_trial(trial: Record, where: str) -> None:
    values = {key: value for key, value in trial.items() if key not in ("id", "numerics")}
    found = trial_id(values, trial["numerics"])
    if found != trial["id"]:
        raise RecordError(
            f"{where}: calls itself trial {trial['id']}, but its values are those of {found}"
        )
    if "probe" in trial and registry.entry("probe", trial["probe"]["name"]).keeps_pictures:
        raise RecordError(
            f"{where}: probe '{trial['probe']['name']}' keeps pictures, which no record holds; "
            "measure it where the report is made"
        )


def _check_events(trial: Record, events: list[Record], where: str) -> None:
    if events[0]["event"] != "started":
        raise RecordError(
            f"{where}: its journal begins with '{events[0]['event']}', not with 'started'"
        )
    there, what = journal.curve(events).keys(), "points" if "probe" in trial else "epochs"
    # How many points a measurement has is its own affair; they are counted from 1.
    wanted = len(there) if "probe" in trial else trial["train"]["epochs"]
    if there != set(range(1, wanted + 1)):
        missing = sorted(set(range(1, wanted + 1)) - there)
        raise RecordError(
            f"{where}: its journal lacks {what} {missing[:5]} of {wanted}, or has others"
        )


def _check_result(trial: Record, events: list[Record], result: Record, where: str) -> None:
    """What the journal's epochs say, to the last bit; of a measurement, that there is a number."""
    said = {"id": trial["id"], "seed": trial["seed"]}
    if "probe" not in trial:
        said["epochs"] = trial["train"]["epochs"]
    for key, value in said.items():
        if result[key] != value:
            raise RecordError(f"{where}: result.json says {key} {result[key]}, not {value}")
    if "probe" in trial:
        name = f"measured_{trial['probe']['name']}"
        if not math.isfinite(result["metrics"][name]):
            raise RecordError(f"{where}: result.json says {name} {result['metrics'][name]}")
    else:
        _check_metrics(trial, events, result, where)


def _check_metrics(trial: Record, events: list[Record], result: Record, where: str) -> None:
    total = trial["train"]["epochs"]
    epochs = list(journal.curve(events).values())
    metrics = select(epochs, _metrics(trial, epochs), total)
    former = _former_selection(epochs)
    for key in metrics.keys() | result["metrics"].keys():
        found = result["metrics"].get(key)
        if found is None and former and former.keys() <= result["metrics"].keys():
            continue  # what earlier trainings did not select
        if found is None or found not in (metrics.get(key), former.get(key)):
            raise RecordError(
                f"{where}: result.json says {key} {found}, but trial and journal say "
                f"{metrics.get(key)}"
            )


def _metrics(trial: Record, epochs: list[Record]) -> list[Metric]:
    """Those of the trial's task, the primary one first, and of its further heads."""
    task = trial.get("task", {"name": "classification"})["name"]
    names = registry.entry("task", task).metrics
    columns = dict.fromkeys(key.removeprefix("test_") for epoch in epochs for key in epoch)
    heads = [name for name in columns if "." in name and name.partition(".")[0] in names]
    return [registry.metric(name) for name in (*names, *heads)]


def _former_selection(epochs: list[Record]) -> dict[str, Any]:
    """What stood in result.json before `rm.metrics`: each error's own best, and medians over the
    last ten evaluated epochs, however far apart.
    """
    evaluated = [epoch for epoch in epochs if "test_top1_error" in epoch]
    if not evaluated:
        return {}
    found: dict[str, Any] = {}
    for name in ("top1_error", "top5_error"):
        values = [epoch[f"test_{name}"] for epoch in evaluated]
        found |= {f"best_{name}": min(values), f"last_{name}": values[-1]}
        found[f"median_last_10_{name}"] = median(values[-10:])
    best = min(evaluated, key=lambda epoch: epoch["test_top1_error"])
    return {**found, "best_epoch": best["epoch"]}


def _columns(epochs: list[Record]) -> dict[str, list[Any]]:
    names = dict.fromkeys(name for epoch in epochs for name in epoch if name != "event")
    return {name: [epoch.get(name) for epoch in epochs] for name in names}


def _hashed(diff: str | None) -> str | None:
    """A diff of the source is named by its hash; no diff stays no diff."""
    if not diff or diff.startswith("sha256:"):
        return diff
    return f"sha256:{hashlib.sha256(diff.encode()).hexdigest()}"


def read(path: Path) -> list[Record]:
    """The records of one file; RecordError names the line that is none."""
    records = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            record = json.loads(line)
            record["id"], record["trial"], record["epochs"], record["result"]
        except (ValueError, KeyError, TypeError) as error:
            raise RecordError(
                f"{path}:{number}: not a record of a run ({type(error).__name__}: {error})"
            ) from None
        records.append(record)
    return records


def add(path: Path, records: Iterable[Record]) -> int:
    """Put records into a file, which stays sorted by label; one already there is replaced. Returns
    how many changed.
    """
    there = {record["id"]: record for record in read(path)} if path.exists() else {}
    new = {record["id"]: record for record in records if there.get(record["id"]) != record}
    merged = sorted((there | new).values(), key=lambda record: (record["label"], record["id"]))
    if new:
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = (
            json.dumps(record, ensure_ascii=False, separators=(",", ":")) for record in merged
        )
        write_atomically(path, "".join(f"{line}\n" for line in lines))
    return len(new)


def committed(folder: Path) -> dict[str, Path]:
    """Trial id -> the file that holds its record. Files are not parsed: a line begins with its
    id.
    """
    return {name: path for path in _files(folder) for name, _ in _index(path)}


def former(folder: Path, trials: Iterable[Trial]) -> dict[str, int]:
    """Trial id -> the numerics of its committed record, of those trials of which a record of
    former numerics is committed. Such a record has another id: it never stands for the trial.
    """
    known = {name: number for path in _files(folder) for name, number in _index(path)}
    numbers = sorted(set(known.values()))
    return {
        trial.id: number
        for trial in trials
        for number in numbers
        if number != registry.numerics(trial.values)
        and known.get(trial_id(trial.values, number)) == number
    }


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.jsonl"))


def _index(path: Path) -> tuple[tuple[str, int], ...]:
    status = path.stat()
    return _read_index(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=256)
def _read_index(path: Path, changed: int, size: int) -> tuple[tuple[str, int], ...]:
    """(id, numerics) of each line."""
    with path.open("rb") as file:
        found = ((_ID.match(line), _NUMERICS.search(line)) for line in file)
        return tuple(
            (name[1].decode(), int(number[1]) if number else 1) for name, number in found if name
        )


def restore(folder: Path, runs: Path, wanted: Iterable[str] | None = None) -> list[Path]:
    """Make finished run directories of the records that have none; returns those made. `wanted`
    limits it to these ids.

    An unfinished run directory of the same trial moves to `replaced` beside `runs`; one that a
    worker is at is left alone.
    """
    index, made = committed(folder), []
    limit = set(index) if wanted is None else set(wanted) & set(index)
    missing = limit - folders.finished(runs, sorted(limit))
    for path in sorted({index[identity] for identity in missing}):
        for record in read(path):
            run_dir = runs / record["id"]
            if record["id"] not in missing or RunDir(run_dir).state() == "running":
                continue
            _set_aside(run_dir)
            _write_run(run_dir, record, path)
            made.append(run_dir)
    return made


def _set_aside(run_dir: Path) -> None:
    """A run directory in which something happened is kept; one that only waits is filled."""
    if RunDir(run_dir).has(rundir.JOURNAL):
        target = (
            run_dir.parents[1] / "replaced" / f"{run_dir.name}-{time.strftime('%Y%m%d-%H%M%S')}"
        )
        target.parent.mkdir(parents=True, exist_ok=True)
        run_dir.rename(target)


def _write_run(run_dir: Path, record: Record, source: Path) -> None:
    """result.json last: until it is there, the run directory is not finished."""
    run_dir.mkdir(parents=True, exist_ok=True)
    write_atomically(
        run_dir / rundir.TRIAL, json.dumps(record["trial"], indent=1, ensure_ascii=False)
    )
    write_atomically(run_dir / rundir.USES, _lines(record["uses"]))
    write_atomically(run_dir / rundir.PROVENANCE, json.dumps(record["attempts"], indent=1))
    write_atomically(
        run_dir / rundir.ORIGIN, json.dumps({"origin": "reproduced", "file": source.name})
    )
    write_atomically(run_dir / rundir.JOURNAL, _lines(_events(record)))
    write_atomically(run_dir / rundir.RESULT, json.dumps(record["result"], indent=1))


def _events(record: Record) -> Iterator[Record]:
    """The journal again, in its order in time, without the checkpoints."""
    event = "point" if "points" in record else "epoch"
    columns = record["points"] if event == "point" else record["epochs"]
    rows = (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
    epochs = [{"event": event, **{k: v for k, v in row.items() if v is not None}} for row in rows]
    last = [event for event in record["events"] if event["event"] == "finished"]
    others = [event for event in record["events"] if event["event"] != "finished"]
    yield from sorted(
        [*others, *epochs], key=lambda event: (event["event"] != "started", event["time"])
    )
    yield from last


def _lines(items: Iterable[Any]) -> str:
    return "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items)
