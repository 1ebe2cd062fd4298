"""A short storm of SIGKILLs, with one power cut where that can be had; `make faults` has a long
one.
"""

import pytest

from tests.support import storm


@pytest.mark.cluster
def test_a_storm_changes_no_bit(tmp_path):
    found = storm.run(tmp_path, kills=8, cuts=1, seed=3)
    assert found.badly == []
    assert found.tried >= 8
