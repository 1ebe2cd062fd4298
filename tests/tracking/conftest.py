"""Here MLflow is what is tested."""

import pytest


@pytest.fixture(autouse=True)
def _tracked(tracked: None) -> None:
    """Commands mirror what they train."""
