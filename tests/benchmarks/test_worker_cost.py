"""What a trial waits for beyond its training."""

from pathlib import Path

import pytest

from benchmarks.worker_cost import measure


def test_a_warm_worker_waits_for_the_disk_as_often_as_the_benchmarks_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RM_THREADS", "1")
    costs = measure(4, tmp_path)
    # Between two trials: `finished` of the one, the provenance of the other. In all: three events,
    # and file and folder of checkpoint, weights and result.
    assert [cost.syncs for cost in costs] == [(3, 11)] * 2
    assert all(cost.between[0] > 0 for cost in costs)
