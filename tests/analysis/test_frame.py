"""`analysis.results`, the CSV of seeds, and the notebook that uses them."""

import io
import json

import matplotlib
import pandas as pd
import pytest

import analysis
from analysis.collect import collect
from analysis.load import InputError
from analysis.tables.per_seed import to_seeds, to_seeds_csv
from launch.spec.load import load_spec
from tests.support.analysis.samples import fake_records, grid_spec
from tests.support.trials import ROOT

NOTEBOOK = ROOT / "examples" / "results.ipynb"


def test_every_seed_of_every_cell_has_a_row_with_its_values():
    spec = grid_spec()
    missing = spec.cells[1].trials[2].id
    records = fake_records(spec, skip=(missing,))
    table = collect(spec, records)
    frame = to_seeds(table)
    assert list(frame["trial"]) == [trial.id for trial in spec.trials]
    best = records.set_index("trial_id")["best_top1_error"]
    for row in frame.to_dict("records"):
        if row["trial"] == missing:
            assert (row["state"], pd.isna(row["value"])) == ("missing", True)
        else:
            assert row["value"] == row["best"] == best[row["trial"]]
    first = frame.iloc[0]
    assert (first["backbone"], first["method"]) == ("ResNet-18", "Baseline")
    assert first["published"] == 21.7
    assert set(frame["profile"]) == {"full"}
    means = frame.groupby(["backbone", "method"], sort=False)["value"].mean()
    ours = [cell.ours.mean for cell in table.cells]
    assert list(means) == pytest.approx(ours)
    read = pd.read_csv(io.StringIO(to_seeds_csv(table)), dtype={"seed": "int64"})
    assert list(read["value"].dropna()) == list(frame["value"].dropna()), "every float exact"


def test_a_spec_by_name_or_by_file_with_what_the_command_line_takes(tmp_path, monkeypatch):
    monkeypatch.setenv("RM_RESULTS_DIR", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    frame = analysis.results("table3", profile="smoke", overrides=["train.epochs=5"])
    spec = load_spec(ROOT / "experiments" / "table3.yaml", "smoke", None, ["train.epochs=5"])
    assert list(frame["trial"]) == [trial.id for trial in spec.trials]
    assert set(frame["profile"]) == {"smoke, train.epochs=5"}
    assert set(frame["state"]) == {"missing"}
    with pytest.raises(InputError, match=r"no spec 'tabel3'; did you mean 'table3'"):
        analysis.results("tabel3")


def test_the_notebook_runs_in_a_fresh_clone(tmp_path, monkeypatch):
    """Its cells, one after another, on the committed records."""
    (tmp_path / "reproduced").symlink_to(ROOT / "results" / "reproduced")
    monkeypatch.setenv("RM_RESULTS_DIR", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    matplotlib.use("Agg")
    space: dict = {}
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    for cell in cells:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [], "committed without outputs"
            exec("".join(cell["source"]), space)
    assert space["summary"].loc["Baseline", "count"] >= 2
    assert space["gains"].notna().any(axis=None)
