"""Write `results/reproduced/README.md` from the committed records: what is there, of which machine
and commit, the verdicts so far.

    python -m analysis.reproduced [FOLDER] [--experiments FOLDER]

Nothing but the records and the specs is read, so the page is the same wherever it is made.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.paths import ROOT, results_dir
from analysis.records.load import COLUMNS, FINALS
from analysis.results import Table, collect
from analysis.tables import to_markdown
from launch.spec.load import Spec, SpecError, load_spec

INTRODUCTION = """\
# Reproduced

Committed records of finished runs on real data, one JSON line each: the trial, where it ran, every epoch, the result; no weights.
`python launch/run.py sync` makes run directories and MLflow records of them, so that every report shows them and no launch trains
them again. This page is written by `python -m analysis.reproduced`; `make gpu-collect` renews it.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 2 where a record or a spec cannot be read."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.reproduced", description="Write the page on committed records."
    )
    parser.add_argument("folder", nargs="?", type=Path, default=results_dir() / "reproduced")
    parser.add_argument(
        "--experiments", type=Path, default=ROOT / "experiments", help="where the specs are"
    )
    given = parser.parse_args(argv)
    try:
        text = page(given.folder, given.experiments)
    except SpecError as error:
        print(error, file=sys.stderr)
        return 2
    except (OSError, ValueError, KeyError) as error:
        print(
            f"{given.folder}: a record cannot be read ({type(error).__name__}: {error})",
            file=sys.stderr,
        )
        return 2
    given.folder.mkdir(parents=True, exist_ok=True)
    (given.folder / "README.md").write_text(text, encoding="utf-8")
    print(f"wrote {given.folder / 'README.md'}")
    return 0


def page(folder: Path, experiments: Path) -> str:
    """The whole page, in Markdown."""
    files = {path.name: _read(path) for path in sorted(folder.glob("*.jsonl"))}
    records = [record for found in files.values() for record in found]
    if not records:
        return f"{INTRODUCTION}\nThere are none yet.\n"
    parts = [INTRODUCTION, _inventory(files)]
    known = _frame(records)
    for path in sorted(experiments.glob("*.yaml")):
        spec = load_spec(path)
        wanted = {trial.id for trial in spec.trials}
        mine = known[known["trial_id"].isin(wanted)]
        if len(mine):
            parts.append(_section(spec, len(wanted), collect(spec, mine)))
    return "\n".join(parts)


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _inventory(files: dict[str, list[dict[str, Any]]]) -> str:
    heads = ("file", "runs", "device", "commit", "torch", "finished (UTC)", "hours of training")
    lines = [" | ".join(heads), " | ".join(["---"] * len(heads))]
    for name, records in files.items():
        attempts = [attempt for record in records for attempt in record["attempts"]]
        days = sorted({_time(record)[:10] for record in records})
        hours = sum(record["result"]["train_seconds"] for record in records) / 3600
        cells = (
            f"`{name}`",
            str(len(records)),
            _all(attempt.get("device") for attempt in attempts),
            _all(_commit(attempt) for attempt in attempts),
            _all((attempt.get("packages") or {}).get("torch") for attempt in attempts),
            days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}",
            f"{hours:.2f}",
        )
        lines.append(" | ".join(cells))
    return "".join(f"| {line} |\n" for line in lines)


def _section(spec: Spec, trials: int, table: Table) -> str:
    """A spec's cells and claims of which there is something; what is missing is counted, not
    listed.
    """
    cells = tuple(cell for cell in table.cells if cell.finished)
    claims = tuple(claim for claim in table.claims if claim.result.n)
    done = len({seed.trial_id for cell in cells for seed in cell.finished})
    what = (
        "full scale, the paper's setting"
        if spec.paper
        else "not in the paper: nothing here is comparable with its numbers"
    )
    summary = (
        f"`experiments/{spec.path.name}`: {what}. {done} of {trials} trials, {len(cells)} "
        f"of {len(table.cells)} cells."
    )
    heading, rest = to_markdown(replace(table, cells=cells, claims=claims)).split("\n", 1)
    return f"{heading.removeprefix('#')}\n\n{summary}\n{rest}"


def _frame(records: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """The records as `analysis.records.load_records` gives them from MLflow."""
    rows = []
    for record in records:
        last, result = record["attempts"][-1], record["result"]
        row = dict.fromkeys(COLUMNS) | {
            "trial_id": record["id"],
            "seed": result["seed"],
            "status": "FINISHED",
            "host": last.get("host"),
            "device": last.get("device"),
            "git_commit": last.get("git_commit"),
            "best_epoch": result["metrics"]["best_epoch"],
            "train_seconds": result["train_seconds"],
            "ended": _time(record),
        }
        rows.append(row | {name: result["metrics"][name] for name in FINALS})
    return pd.DataFrame(rows, columns=list(COLUMNS)).sort_values("trial_id", ignore_index=True)


def _time(record: dict[str, Any]) -> str:
    return datetime.fromtimestamp(record["epochs"]["time"][-1], UTC).isoformat(timespec="seconds")


def _commit(attempt: dict[str, Any]) -> str:
    commit = attempt.get("git_commit")
    return (
        f"{commit[:12]}{' + changes' if attempt.get('git_diff') else ''}" if commit else "unknown"
    )


def _all(values: Iterable[Any]) -> str:
    return ", ".join(sorted({str(value or "unknown") for value in values}))


if __name__ == "__main__":
    sys.exit(main())
