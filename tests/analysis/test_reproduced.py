"""The page on committed records, and the committed records themselves."""

import json

import pytest

from analysis.reproduced import main, page
from launch.spec.load import load_spec
from launch.spec.trial import trial_id
from tests.support.trials import ROOT

REPRODUCED = ROOT / "results" / "reproduced"
SPEC = """\
title: "Two methods"
paper: {key: yang2022recursivemix, table: "3"}
seeds: [0, 1]
trial:
  dataset: digits
  backbone: resnet8
  train: {epochs: 2, batch_size: 16}
  optimizer: {name: sgd, lr: 0.1}
  schedule: constant
rows:
  - {row: Baseline, method: baseline, published: 20.0}
  - {row: RM, method: recursive_mix, published: 18.0}
claims: ["RM < Baseline"]
"""


def record(trial, error):
    metrics = {
        f"{s}_{m}": error
        for m in ("top1_error", "top5_error")
        for s in ("best", "last", "median_last_10")
    }
    attempt = {
        "host": "h",
        "device": "H200",
        "git_commit": "0123456789abcdef",
        "git_diff": "",
        "packages": {"torch": "2"},
    }
    return {
        "id": trial.id,
        "trial": json.loads(trial.to_json()),
        "attempts": [attempt],
        "epochs": {"epoch": [1, 2], "time": [0.0, 86400.0]},
        "result": {
            "seed": trial.seed,
            "metrics": {**metrics, "best_epoch": 2},
            "train_seconds": 3600.0,
        },
    }


@pytest.fixture
def folders(tmp_path):
    experiments, folder = tmp_path / "experiments", tmp_path / "reproduced"
    experiments.mkdir()
    folder.mkdir()
    (experiments / "two.yaml").write_text(SPEC)
    return experiments, folder


def test_the_page_says_what_is_there_and_what_is_not(folders):
    experiments, folder = folders
    baseline, rm = load_spec(experiments / "two.yaml").cells
    records = [
        record(baseline.trials[0], 20.4),
        record(baseline.trials[1], 20.2),
        record(rm.trials[0], 18.1),
    ]
    (folder / "two.jsonl").write_text("".join(json.dumps(line) + "\n" for line in records))
    text = page(folder, experiments)
    assert "| `two.jsonl` | 3 | H200 | 0123456789ab | 2 | 1970-01-02 | 3.00 |" in text
    assert "3 of 4 trials, 2 of 2 cells" in text
    assert "full scale, the paper's setting" in text
    assert "20.30 ± 0.14" in text
    assert "1 of 2" in text
    assert main([str(folder), "--experiments", str(experiments)]) == 0
    assert (folder / "README.md").read_text() == text


def test_without_records_it_says_so_and_a_bad_one_is_named(folders, capsys):
    experiments, folder = folders
    assert "There are none yet." in page(folder, experiments)
    (folder / "bad.jsonl").write_text("{}\n")
    assert main([str(folder), "--experiments", str(experiments)]) == 2
    assert "a record cannot be read" in capsys.readouterr().err


def test_committed_records_are_what_they_say_and_the_page_is_of_them():
    for path in sorted(REPRODUCED.glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            found = json.loads(line)
            values = {
                key: value
                for key, value in found["trial"].items()
                if key not in ("id", "numerics")
            }
            assert (
                trial_id(values, found["trial"]["numerics"])
                == found["id"]
                == found["result"]["id"]
            )
            if "probe" in found["trial"]:
                counted, count = (
                    found["points"].get("point", []),
                    len(found["points"].get("time", [])),
                )
            else:
                counted, count = found["epochs"]["epoch"], found["trial"]["train"]["epochs"]
            assert counted == list(range(1, count + 1))
    assert (REPRODUCED / "README.md").read_text(encoding="utf-8") == page(
        REPRODUCED, ROOT / "experiments"
    )
