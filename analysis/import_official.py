"""Take training logs of the authors' code, or CSVs of their learning curves, into the report.

    python -m analysis.import_official LOG... [--spec table1 --cell RM]

What is taken over stands as CSV in `results/official/`; importing a log again replaces it. The
released logs of the paper are known by their names; for any other, --spec and --cell say which
cell it speaks for.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from analysis.paths import find_spec_file, results_dir
from analysis.records.official import (
    PLACES,
    LogError,
    OfficialRun,
    place_of,
    read_curves,
    read_log,
    to_csv,
)
from launch.spec.load import SpecError, load_spec
from rm.files import write_atomically


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code. Nothing is written where any of the logs cannot be
    read.
    """
    args = _arguments(argv)
    runs: list[OfficialRun] = []
    errors = []
    for path in args.logs:
        try:
            runs += _read(path, _place(args.spec, args.cell))
        except (LogError, SpecError) as error:
            errors.append(str(error))
        except OSError as error:
            errors.append(
                f"{path}: {error.strerror}; valid: a training log, or a CSV of learning curves"
            )
    if errors:
        print("\n".join(dict.fromkeys(errors)), file=sys.stderr)
        return 2
    folder = results_dir() / "official"
    folder.mkdir(parents=True, exist_ok=True)
    for run in runs:
        write_atomically(folder / f"{run.name}.csv", to_csv([run]))
        finals = {metric: run.finals(metric) for metric in run.curves}
        summary = "; ".join(
            f"{metric} best {values['best']:.2f}, last {values['last']:.2f}"
            for metric, values in finals.items()
            if values
        )
        print(f"{run.name} -> {run.spec} · {run.cell}: {summary}")
    return 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.import_official", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument(
        "logs",
        nargs="+",
        type=Path,
        metavar="LOG",
        help="a training log, or a CSV of learning curves",
    )
    parser.add_argument(
        "--spec", help="the spec of the cell, as table1 or experiments/table1.yaml"
    )
    parser.add_argument("--cell", help="the cell's labels, as 'RM' or 'ResNet-50 · + RM (ours)'")
    return parser.parse_args(argv)


def _place(spec: str | None, cell: str | None) -> tuple[str, str] | None:
    """The cell that was named on the command line, after a look whether there is one."""
    if spec is None and cell is None:
        return None
    if spec is None or cell is None:
        raise LogError("--spec and --cell belong together")
    path = find_spec_file(spec if spec.endswith(".yaml") else f"experiments/{spec}.yaml")
    loaded = load_spec(path)
    labels = [" · ".join(one.labels) for one in loaded.cells]
    if cell not in labels:
        raise LogError(f"{path}: no cell '{cell}'; valid: {', '.join(labels)}")
    return loaded.name, cell


def _read(path: Path, place: tuple[str, str] | None) -> list[OfficialRun]:
    path.stat()  # what is not there is said before what is not known of it
    if path.suffix == ".csv":
        runs = read_curves(path, place)
        if not runs:
            raise LogError(
                f"{path}: no learning curve by epoch of a known log; known names begin with "
                f"{', '.join(PLACES)}"
            )
        return runs
    where = place or place_of(path.name)
    if where is None:
        known = ", ".join(PLACES)
        raise LogError(
            f"{path}: which cell is this? name it with --spec and --cell (known names begin with "
            f"{known})"
        )
    return [read_log(path, where)]


if __name__ == "__main__":
    sys.exit(main())
