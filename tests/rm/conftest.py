"""Fixtures of the core's tests."""

import pytest

from rm.datasets import _whole
from tests.support.rm.imagenet_tree import make_tree


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """$RM_DATA_DIR/imagenet with 12 classes, one picture each."""
    monkeypatch.setenv("RM_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("RM_LOADER_WORKERS", "2")
    _whole.cache_clear()
    yield make_tree(tmp_path / "data" / "imagenet")
    _whole.cache_clear()
