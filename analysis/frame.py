"""`analysis.results("table3")`: what the records say of a spec, for a notebook."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from analysis import paths
from analysis.load import InputError, load, tables_of
from analysis.paths import find_spec_file, results_dir
from analysis.tables.per_seed import to_seeds
from launch.spec.grammar.locate import find_spec, known_specs
from launch.spec.load import load_spec
from rm.registry import suggestion


def results(
    spec: str | Path,
    *,
    profile: str | None = None,
    overrides: Sequence[str] = (),
    tracking_uri: str | None = None,
) -> pd.DataFrame:
    """A row for each seed of each cell of a spec, and for each of its metrics; the columns are
    those of `analysis.tables.per_seed.to_seeds`.

    spec          its file, or its name in experiments/: "table3"
    profile, overrides    as of `launch/run.py`: "smoke", ["train.epochs=5"]
    tracking_uri  the MLflow store; default $MLFLOW_TRACKING_URI or results/mlflow.db. Committed
                  records count where it has nothing

    SpecError for a spec with mistakes, InputError for one that is not there or a store that cannot
    be read.
    """
    loaded = load_spec(_find(str(spec)), profile, overrides=overrides)
    data = load([loaded], paths.tracking_uri(tracking_uri), results_dir() / "report" / ".cache")
    tables = tables_of(data, reduced_if_committed=False)
    return pd.concat([to_seeds(table) for table in tables], ignore_index=True)


def _find(spec: str) -> Path:
    path = find_spec_file(spec)
    if path.is_file():
        return path
    found = find_spec(spec, Path.cwd())
    if found is None:
        raise InputError(f"no spec '{spec}'{suggestion(spec, known_specs(Path.cwd()))}")
    return found
