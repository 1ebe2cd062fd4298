"""Every backend behind one face. A new one is a class here and a name in BACKENDS; the suite needs
nothing else.
"""

from pathlib import Path

import pytest

from tests.support.backends import Backend

BACKENDS = {
    "local": lambda request, results: Backend("local", results, []),
    "ray": lambda request, results: Backend(
        "ray",
        results,
        ["--backend", "ray", "--address", request.getfixturevalue("ray_cluster").address],
    ),
}


@pytest.fixture(
    params=[
        pytest.param(name, marks=[pytest.mark.cluster] * (name != "local")) for name in BACKENDS
    ]
)
def backend(request: pytest.FixtureRequest, results: Path) -> Backend:
    return BACKENDS[request.param](request, results)
