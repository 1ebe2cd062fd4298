"""Garbage collection around large imports."""

import gc
import sys
import weakref

import pytest

from launch.garbage import importing
from launch.worker.worker import warm_up


@pytest.fixture(autouse=True)
def _as_before():
    """What the tests' process had kept from the search is kept from it again."""
    yield
    gc.collect()
    gc.freeze()


class Knot:
    """Garbage that only a search finds."""

    def __init__(self):
        self.itself = self


def test_a_first_import_is_kept_from_the_search(tmp_path, monkeypatch):
    (tmp_path / "a_large_package.py").write_text("made = [[number] for number in range(2000)]")
    monkeypatch.syspath_prepend(str(tmp_path))
    gc.unfreeze()
    with importing("a_large_package"):
        assert not gc.isenabled()
        import a_large_package
    assert gc.isenabled()
    assert gc.get_freeze_count() > len(a_large_package.made)
    sys.modules.pop("a_large_package")


def test_what_a_trial_left_is_found_by_the_next_ones(monkeypatch):
    """A warm worker warms up before each trial."""
    monkeypatch.setenv("RM_THREADS", "1")
    warm_up()
    left = Knot()
    gone = weakref.ref(left)
    del left
    warm_up()
    gc.collect()
    assert gone() is None
