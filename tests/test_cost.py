"""The GPU-hours in a spec's first line are those that `python -m benchmarks.cost` counts at 30
TFLOP/s.
"""

import re

import pytest

from benchmarks.cost import is_full_scale, operations
from launch.paths import EXPERIMENTS
from launch.spec.load import load_spec

SPECS = [path for path in sorted(EXPERIMENTS.rglob("*.yaml")) if is_full_scale(load_spec(path))]


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_the_first_line_says_what_a_table_costs(path):
    first = path.read_text(encoding="utf-8").splitlines()[0]
    stated = re.search(r"About ([\d,.]+) GPU-hours\.", first)
    assert stated, first
    hours = sum(operations(trial) for trial in load_spec(path).trials) / 30e12 / 3600
    assert float(stated[1].replace(",", "")) == pytest.approx(hours, rel=0.05)
