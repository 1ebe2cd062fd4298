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

from analysis.collect import collect
from analysis.paths import ROOT, results_dir
from analysis.records import committed
from analysis.records.committed import Record
from analysis.records.former import as_of_today, former_ids
from analysis.records.load import to_frame
from analysis.table import Table
from analysis.tables import to_markdown
from launch.spec.load import Spec, SpecError, load_spec

INTRODUCTION = """\
# Reproduced

Committed records of finished runs on real data, one JSON line each: the trial, where it ran, every
epoch, the result; no weights. `python launch/run.py sync` makes run directories and MLflow records
of them, so that every report shows them and no launch trains them again. This page is written by
`python -m analysis.reproduced`; `make gpu-collect` renews it.
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
    args = parser.parse_args(argv)
    try:
        text = page(args.folder, args.experiments)
    except SpecError as error:
        print(error, file=sys.stderr)
        return 2
    except (OSError, ValueError, KeyError) as error:
        print(
            f"{args.folder}: a record cannot be read ({type(error).__name__}: {error})",
            file=sys.stderr,
        )
        return 2
    args.folder.mkdir(parents=True, exist_ok=True)
    (args.folder / "README.md").write_text(text, encoding="utf-8")
    print(f"wrote {args.folder / 'README.md'}")
    return 0


def page(folder: Path, experiments: Path) -> str:
    """The whole page, in Markdown."""
    files = {path.name: _read(path) for path in sorted(folder.glob("*.jsonl"))}
    records = [record for lines in files.values() for record in lines]
    if not records:
        return f"{INTRODUCTION}\nThere are none yet.\n"
    parts = [INTRODUCTION, _inventory(files)]
    rows = {record["id"]: committed.row(record) for record in records}
    for path in sorted(experiments.rglob("*.yaml")):
        spec = load_spec(path)
        trials = {trial.id: trial.values for trial in spec.trials}
        former = former_ids(trials)
        own = {trial: row for trial, row in rows.items() if trial in trials or trial in former}
        if own:
            frame = to_frame(as_of_today(own, former))
            shown = Path("experiments") / path.relative_to(experiments)
            parts.append(_section(spec, shown, len(trials), collect(spec, frame)))
    return "\n".join(parts)


def _read(path: Path) -> list[Record]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _inventory(files: dict[str, list[Record]]) -> str:
    heads = ("file", "runs", "device", "commit", "torch", "finished (UTC)", "hours of training")
    lines = [" | ".join(heads), " | ".join(["---"] * len(heads))]
    for name, records in files.items():
        attempts = [attempt for record in records for attempt in record["attempts"]]
        days = sorted({_day(record) for record in records})
        hours = sum(record["result"]["train_seconds"] for record in records) / 3600
        cells = (
            f"`{name}`",
            str(len(records)),
            _distinct(attempt.get("device") for attempt in attempts),
            _distinct(map(_commit, attempts)),
            _distinct((attempt.get("packages") or {}).get("torch") for attempt in attempts),
            days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}",
            f"{hours:.2f}",
        )
        lines.append(" | ".join(cells))
    return "".join(f"| {line} |\n" for line in lines)


def _section(spec: Spec, path: Path, trials: int, table: Table) -> str:
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
        f"`{path}`: {what}. {done} of {trials} trials, {len(cells)} of {len(table.cells)} cells."
    )
    heading, rest = to_markdown(replace(table, cells=cells, claims=claims)).split("\n", 1)
    return f"{heading.removeprefix('#')}\n\n{summary}\n{rest}"


def _commit(attempt: Record) -> str:
    commit, plus, _ = committed.commit(attempt).partition("+")
    return f"{commit[:12]}{' + changes' if plus else ''}"


def _day(record: Record) -> str:
    return datetime.fromtimestamp(committed.ended(record), UTC).date().isoformat()


def _distinct(values: Iterable[Any]) -> str:
    return ", ".join(sorted({str(value or "unknown") for value in values}))


if __name__ == "__main__":
    sys.exit(main())
