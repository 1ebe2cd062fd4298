"""A metric that is better when it is larger: real trainings, judged by their error and by their
accuracy, have the same verdicts, claims, selection optimism and curves.
"""

import csv
import json
import os
import re
import subprocess
import sys

import pytest

from tests.support import inprocess
from tests.support.trials import ROOT

pytestmark = pytest.mark.cluster

EPOCHS, EVERY = 12, 2
SPEC = f"""\
title: "Three methods on a few digits"
metric: {{name: top1_error, select: best, also: [top5_error]}}
margin: 4.0
seeds: [0, 1, 2, 3]
trial:
  dataset: {{name: digits, size: 16, limit: 60, test_limit: 60}}
  backbone: {{name: resnet8, width: 8}}
  train: {{epochs: {EPOCHS}, batch_size: 20, evaluate_every: {EVERY}, precision: fp32}}
  optimizer: {{name: sgd, lr: 0.1}}
  schedule: {{name: cosine}}
rows:
  - {{row: Baseline, method: baseline, published: {{top1_error: 25.0, top5_error: 1.0}}}}
  - row: No learning
    method: baseline
    optimizer.lr: 1.0e-6
    published: {{top1_error: 40.0, top5_error: 2.0}}
  - {{row: CutMix, method: {{name: cutmix, alpha: 1.0, probability: 0.5}}}}
claims:
  - "Baseline < No learning"
  - "Baseline < No learning by 1"
  - "Baseline < No learning by 99"
  - "No learning < CutMix"
  - "Baseline, CutMix within 50"
figures:
  learning_curves: {{draw: learning_curves}}
"""


def mirrored(text):
    """The same spec by accuracy: metrics, published numbers, and claims of order turned round."""
    text = text.replace("top1_error", "top1_accuracy").replace("top5_error", "top5_accuracy")
    number = re.compile(r"(?<=_accuracy: )([\d.]+)")
    text = number.sub(lambda error: str(100 - float(error[0])), text)
    head, claims = text.split("claims:")
    return f"{head}claims:{claims.replace(' < ', ' > ')}"


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """Train the twelve trials, then report them twice; the folder of both reports."""
    folder = tmp_path_factory.mktemp("accuracy")
    specs = [folder / "by_error.yaml", folder / "by_accuracy.yaml"]
    specs[0].write_text(SPEC)
    specs[1].write_text(mirrored(SPEC))
    environment = {**os.environ, "RM_RESULTS_DIR": str(folder / "results"), "RM_TRACKING": "on"}
    environment.pop("MLFLOW_TRACKING_URI", None)

    def command(*words):
        done = subprocess.run(
            [sys.executable, *map(str, words)], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    inprocess.train(specs[0], folder / "results", {"RM_TRACKING": "on"})
    plan = command(ROOT / "launch/run.py", specs[1], "--dry-run")
    assert "12 trials: 12 finished" in plan, "they are the same trials"
    command(ROOT / "analysis/report.py", *specs)
    return folder / "results" / "report"


def cells(reports, name):
    with (reports / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return {line["row"]: line for line in csv.DictReader(file)}


def page(reports):
    """Of both specs together."""
    (file,) = reports.glob("*.html")
    return file.read_text(encoding="utf-8")


def claims(reports, name):
    """Claim -> difference, p, p after Holm's correction, n, verdict, as Markdown prints them."""
    lines = (reports / f"{name}.md").read_text(encoding="utf-8").split("| Claim |")[1].splitlines()
    rows = [line.strip("| ").replace("\\", "").split(" | ") for line in lines[2:] if line]
    return {row[0]: row[1:] for row in rows}


@pytest.mark.parametrize("suffix", ["top1", "top5"])
def test_every_cell_says_the_same(reports, suffix):
    further = ("-top5_error", "-top5_accuracy") if suffix == "top5" else ("", "")
    errors = cells(reports, f"by_error{further[0]}")
    accuracies = cells(reports, f"by_accuracy{further[1]}")
    assert list(errors) == list(accuracies) == ["Baseline", "No learning", "CutMix"]
    for row, error in errors.items():
        accuracy = accuracies[row]
        assert (error["verdict"], error["n"], error["note"]) == (
            accuracy["verdict"],
            accuracy["n"],
            accuracy["note"],
        )
        for key in ("mean", "best_mean", "last_mean"):
            assert float(accuracy[key]) == pytest.approx(100 - float(error[key]))
        for key in ("std", "selection_optimism"):
            assert float(accuracy[key]) == pytest.approx(float(error[key]), abs=1e-9)
        if error["difference"]:
            assert float(accuracy["difference"]) == pytest.approx(-float(error["difference"]))
        if error["tost_p"]:
            assert float(accuracy["tost_p"]) == pytest.approx(float(error["tost_p"]))
    if suffix == "top1":
        assert float(errors["Baseline"]["selection_optimism"]) >= 0


def test_claims_have_the_same_verdicts_the_other_way_round(reports):
    by_error, by_accuracy = claims(reports, "by_error"), claims(reports, "by_accuracy")
    assert [name.replace(" < ", " > ") for name in by_error] == list(by_accuracy)
    for name, (difference, *tested) in by_error.items():
        other, *rest = by_accuracy[name.replace(" < ", " > ")]
        assert tested == rest, name
        if "within" not in name:
            turned = {"+": "−", "−": "+"}[difference[0]] + difference[1:]
            assert other in (turned, difference if float(difference[1:]) == 0 else turned)
    verdicts = [row[-1] for row in by_error.values()]
    assert verdicts[0] == "✓ holds"
    assert verdicts[2] == "✗ reversed"


def test_curves_are_mirrored_and_named(reports):
    html = page(reports)
    shown = json.loads(re.search(r'id="data">(.*?)</script>', html, re.DOTALL)[1])["cells"]
    for i in range(3):
        error, accuracy = shown[f"by_error--{i}"], shown[f"by_accuracy--{i}"]
        assert "higher" not in error
        assert accuracy["higher"] == 1
        assert (
            error["curves"]["e"] == accuracy["curves"]["e"] == [*range(EVERY, EPOCHS + 1, EVERY)]
        )
        for ours, theirs in zip(error["curves"]["v"], accuracy["curves"]["v"], strict=True):
            assert theirs == [pytest.approx(100 - value, abs=0.011) for value in ours]
    svg = (reports / "by_accuracy" / "learning_curves.svg").read_text(encoding="utf-8")
    assert "top-1 accuracy (%)" in svg
    assert "error" not in re.sub(r"<[^>]*>", "", svg)
    assert "Top-1 accuracy on the test set against epoch" in html
    assert "error" not in (reports / "by_accuracy.md").read_text(encoding="utf-8")
