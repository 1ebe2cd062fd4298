"""Tests of detection and segmentation; they need the packages that `make downstream` installs."""

from pathlib import Path

import pytest

from rm.registry.heads import missing_packages
from tests.support.rm.dense import SAMPLES


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    why = missing_packages({"head": {}})
    if why is not None:
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason=why))


@pytest.fixture(autouse=True, scope="session")
def _operators() -> None:
    """Before any test imports OpenMMLab itself, whichever comes first in its process."""
    if missing_packages({"head": {}}) is None:
        from rm.dense import ops_stub

        ops_stub.install()


@pytest.fixture(autouse=True)
def _samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """The committed pictures, read by the trainer itself."""
    monkeypatch.setenv("RM_DATA_DIR", str(SAMPLES))
    monkeypatch.setenv("RM_LOADER_WORKERS", "0")
