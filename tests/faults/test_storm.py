"""A short storm of SIGKILLs, with one power cut where that can be had; `make faults` has a long
one.
"""

import json

import pytest

from launch.spec.load import load_spec
from tests.support import storm
from tests.support.specs import PRETRAINING


@pytest.mark.cluster
def test_a_storm_changes_no_bit(tmp_path):
    found = storm.run(tmp_path, kills=8, cuts=1, seed=3)
    assert found.badly == []
    assert found.tried >= 8


@pytest.mark.cluster
def test_a_storm_over_pretraining_and_probe_changes_no_bit(tmp_path):
    """And no probe starts from anything but its parent's last weights."""
    found = storm.run(tmp_path, kills=4, cuts=0, seed=5, epochs=6, text=PRETRAINING)
    assert found.badly == []
    assert found.tried >= 4
    spec = load_spec(tmp_path / "small.yaml")
    for cell in spec.cells:
        (parent,), (probe,) = cell.parents, cell.trials
        left, started = (
            json.loads((tmp_path / "results" / "runs" / each.id / "result.json").read_text())
            for each in (parent.trial, probe)
        )
        assert started["init"]["sha256"] == left["weights"]["weights.pt"]
