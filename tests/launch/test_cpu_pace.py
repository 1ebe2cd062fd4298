"""What is said of a bf16 that is slow on this CPU, and the profiles that do without it."""

import json

import pytest

from launch.backends import cpu_pace
from launch.paths import EXPERIMENTS
from launch.spec.load import load_spec

SPECS = sorted(EXPERIMENTS.rglob("*.yaml"))


@pytest.fixture
def known(tmp_path, monkeypatch):
    """Writes what a measurement would have left."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    cpu_pace.bf16_pace()
    path = tmp_path / "recursivemix" / "cpu.json"
    (kind,) = json.loads(path.read_text())

    def write(pace):
        path.write_text(json.dumps({kind: pace}))

    return write


def test_bf16_is_measured_once_and_said_where_it_is_slow(known, monkeypatch):
    measured = cpu_pace.bf16_pace()
    assert 0 < measured < 100
    known(0.25)
    assert cpu_pace.bf16_pace() == 0.25, "remembered"
    assert cpu_pace.check().level == "note"
    table, smoke = (
        load_spec(EXPERIMENTS / "table3.yaml"),
        load_spec(EXPERIMENTS / "table3.yaml", "smoke"),
    )
    said = cpu_pace.remark(table.trials)
    assert "bf16 is 0.25 times as fast as fp32" in said
    assert f"{len(table.trials)} of these trials" in said
    assert cpu_pace.remark(smoke.trials) is None
    known(3.0)
    assert cpu_pace.remark(table.trials) is None
    assert cpu_pace.check().level == "ok"
    known(0.25)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert cpu_pace.remark(table.trials) is None, "a GPU trains it"


def test_the_profiles_smoke_and_cpu_train_in_fp32():
    """But for the table whose rows are the precisions."""
    other = set()
    for path in SPECS:
        for profile in {"smoke", "cpu"} & set(load_spec(path).profiles):
            spec = load_spec(path, profile)
            other |= {
                path.stem
                for trial in spec.trials
                if trial.values["train"].get("precision", "fp32") != "fp32"
            }
    assert other <= {"precision"}
