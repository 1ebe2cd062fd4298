"""What the specs of measurements hold beside their cells is the paper's: Fig. 7's number and Table
11's.
"""

import csv
from pathlib import Path

import pytest

from launch.spec.load import load_spec

ROOT = Path(__file__).resolve().parents[1]
ROWS = list(csv.DictReader((ROOT / "tests" / "published.csv").open(encoding="utf-8")))


def test_fig7_is_the_middle_of_the_papers_four_to_five():
    spec = load_spec(ROOT / "experiments" / "fig7.yaml")
    low, high = (float(row["value"]) for row in ROWS if row["table"] == "Fig7")
    numbers = {
        cell.labels[-1]: cell.published for cell in spec.cells if cell.published is not None
    }
    assert numbers == {"+ RM (ours)": (low + high) / 2}
    assert spec.margin == (high - low) / 2
    assert {cell.trials[0].values["probe"]["threshold"] for cell in spec.cells} == {1e-4}
    assert {cell.trials[0].values["probe"]["iterations"] for cell in spec.cells} == {100}
    assert len(spec.seeds) == 3


QUANTITIES = {
    "Parameters (M)": "params_train",
    "Deployed parameters (M)": "params_deploy",
    "FLOPs (G)": "flops",
    "Memory": "memory",
    "Time": "train_hours",
}


def test_table11_is_the_papers_in_percent_over_its_baseline():
    """The spec's percentages follow from the paper's numbers, which its figure shows as they
    are.
    """
    spec = load_spec(ROOT / "experiments" / "table11.yaml")
    paper = {
        (row["metric"], row["method"]): float(row["value"]) for row in ROWS if row["table"] == "11"
    }
    shown = dict(spec.figures[0].options)["published"]
    methods = {
        label: label.removeprefix("+ ").removesuffix(" (ours)")
        for label in dict.fromkeys(c.labels[1] for c in spec.cells)
    }
    own = [cell for cell in spec.cells if cell.labels[0] not in QUANTITIES]
    assert {cell.labels[0] for cell in own} == {"Time of inference", "History (MiB)"}
    assert all(cell.published is None for cell in own)
    assert len(spec.cells) - len(own) == len(QUANTITIES) * len(methods)
    for cell in (cell for cell in spec.cells if cell not in own):
        quantity, label = cell.labels
        metric = QUANTITIES[quantity]
        ours, baseline = paper[metric, methods[label]], paper[metric, "Baseline"]
        assert cell.published == pytest.approx(100 * (ours / baseline - 1), abs=0.005), cell.labels
        assert shown[quantity][list(methods).index(label)] == ours
