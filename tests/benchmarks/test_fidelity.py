"""`python -m benchmarks.fidelity`: every row that it prints lies within rounding."""

import math

import pytest

from benchmarks.fidelity import rows

ROUNDING = (
    ("6 digits", 5.1e-7),  # what the released logs print
    ("float32, SiLU", 1e-5),
    ("float32", 3e-6),
    ("20 steps", 1e-11),
)


@pytest.mark.parametrize("cases", [40])
def test_nothing_differs_by_more_than_rounding(cases):
    found = list(rows(cases))
    assert len(found) >= 18
    for row in found:
        text = f"{row.what} {row.against}"
        allowed = next((limit for words, limit in ROUNDING if words in text), 1e-12)
        assert math.isfinite(row.difference)
        assert row.difference <= allowed, row
        assert row.cases > 0
