"""A fresh clone: every command says the same of the records that came with it, before anything was
run or mirrored.
"""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import mean

import pytest

import rm
from analysis.records.load import load_curves, load_records
from launch.spec.load import load_spec
from tests.support.trials import ROOT

SPEC = "experiments/cifar10_small.yaml"
COMMITTED = [
    json.loads(line)
    for line in (ROOT / "results/reproduced/cifar10_small.jsonl").read_text("utf-8").splitlines()
]

DONE, TOTAL = len(COMMITTED), len(load_spec(ROOT / SPEC).trials)


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """What `git clone` would bring, of the files as they are here."""
    folder = tmp_path_factory.mktemp("clone")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    return folder


def call(clone: Path, *words: str, status: int = 0) -> str:
    hidden = ("RM_RESULTS_DIR", "MLFLOW_TRACKING_URI", "PYTHONPATH")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    done = subprocess.run(
        [sys.executable, *words],
        cwd=clone,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stderr
    return done.stdout + done.stderr


@pytest.mark.cluster
@pytest.mark.skipif(
    COMMITTED[0]["trial"]["numerics"] != rm.NUMERICS,
    reason="the committed records are of former numerics, until they are trained again",
)
def test_every_command_tells_the_same_story(clone):
    before = {path for path in clone.rglob("*") if "__pycache__" not in path.parts}
    told = call(clone, "launch/run.py", "status", SPEC)
    assert f"{TOTAL} trials: {DONE} finished" in told
    assert f"({DONE} of the finished ones committed in results/reproduced)" in told
    counted = json.loads(call(clone, "launch/run.py", "status", SPEC, "--json"))
    assert counted["counts"]["finished"] == DONE
    committed = [trial for trial in counted["trials"] if trial["where"] == "committed"]
    assert len(committed) == DONE
    told = call(clone, "launch/run.py", SPEC, "--dry-run")
    assert f"{TOTAL} trials: {DONE} finished ({DONE} of them committed" in told
    assert {
        path for path in clone.rglob("*") if "__pycache__" not in path.parts
    } == before  # looking changes nothing
    told = call(clone, "analysis/report.py", SPEC)
    assert "no seed has finished" not in told
    with (clone / "results/report/cifar10_small.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == len({record["label"].split(" · ")[1] for record in COMMITTED})
    for row in table:
        mine = [record for record in COMMITTED if f"· {row['row']} ·" in record["label"]]
        assert int(row["n"]) == len(mine) >= 3
        assert float(row["mean"]) == pytest.approx(
            mean(r["result"]["metrics"]["last_top1_error"] for r in mine)
        )
    assert (clone / "results/report/cifar10_small/learning_curves.svg").exists()
    assert not (clone / "results/mlflow.db").exists()


def test_committed_records_are_rows_and_curves(results):
    (results / "reproduced").mkdir(parents=True)
    shutil.copy(ROOT / "results/reproduced/cifar10_small.jsonl", results / "reproduced")
    record = COMMITTED[0]
    frame = load_records([record["id"], "0" * 12])
    assert list(frame["trial_id"]) == [record["id"]]
    assert dict(frame[["status", "origin", "seed"]].iloc[0]) == {
        "status": "FINISHED",
        "origin": "reproduced",
        "seed": record["result"]["seed"],
    }
    assert frame["best_top1_error"][0] == record["result"]["metrics"]["best_top1_error"]
    curves = load_curves([frame["run_id"][0]], "test_top1_error")
    evaluated = [
        (epoch, error)
        for epoch, error in zip(
            record["epochs"]["epoch"], record["epochs"]["test_top1_error"], strict=True
        )
        if error is not None
    ]
    assert len(evaluated) > 1
    assert list(zip(curves["epoch"], curves["value"], strict=True)) == evaluated
