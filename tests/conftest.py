"""Fixtures that tests of several rooms share; helpers lie in support/."""

import copy
import functools
import gc
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support import inprocess, specs, warm
from tests.support.backends import Backend
from tests.support.trials import TINY

gc.disable()
"""What is imported and collected stays (see `pytest_collection_finish`)."""

LONGEST = ("tracking", "slurm", "ray", "backends")
"""Folders of tests that start clusters and servers."""
CLUSTERS = {"ray_cluster", "ray_folder", "cluster", "postgres"}
"""Fixtures that do."""


if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # A shell's background command ignores Ctrl-C, and so would all that the tests start and stop.
    signal.signal(signal.SIGINT, signal.default_int_handler)

warm.install()

# Loading MLflow is half of what a small run costs: only tests of what it holds do (`tracked`).
os.environ.setdefault("RM_TRACKING", "off")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever starts a cluster is marked so, before `make test` leaves out what is.

    What takes longest comes first, so that the test processes (make test-all) end at about the
    same time.
    """
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if item.path.parent.name in ("ray", "slurm", "backends") or fixtures & CLUSTERS:
            item.add_marker("cluster")
    items.sort(
        key=lambda item: (
            LONGEST.index(item.path.parent.name)
            if item.path.parent.name in LONGEST
            else len(LONGEST)
        )
    )


def pytest_collection_finish() -> None:
    """From here on there is garbage to be found."""
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    """Libraries that count their objects at the end must see them go."""
    gc.unfreeze()


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def tiny() -> dict[str, Any]:
    """A copy of TINY that a test may change."""
    return copy.deepcopy(TINY)


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty results folder that all commands of this test use."""
    folder = tmp_path / "results"
    monkeypatch.setenv("RM_RESULTS_DIR", str(folder))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return folder


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's sqlite file before its first run. Its tables take 2.6 s to make, a copy none."""
    from mlflow import MlflowClient

    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{file}").search_experiments(max_results=1)
    return file


@pytest.fixture
def tracked(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this test's commands train, they mirror into MLflow."""
    monkeypatch.setenv("RM_TRACKING", "on")


@pytest.fixture
def stored(tracked: None, tmp_path: Path, empty_store: Path) -> None:
    """As `tracked`, into a store that is there already, in tmp_path/results."""
    (tmp_path / "results").mkdir(exist_ok=True)
    shutil.copy(empty_store, tmp_path / "results" / "mlflow.db")


@pytest.fixture
def write_spec(tmp_path: Path) -> Callable[..., Path]:
    """Write a spec file (by default tests.support.specs.SPEC) with replacements made; returns its
    path.
    """
    return functools.partial(specs.write_spec, tmp_path)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[Any]:
    """One node with two CPUs, whatever this machine has."""
    from tests.support.ray_cluster import Cluster  # sets a token for all of Ray in this process

    with Cluster(cpus=2) as cluster:
        yield cluster


@pytest.fixture
def undisturbed(tmp_path: Path) -> Backend:
    """The local backend in another results folder: what the numbers should be."""
    return Backend("local", tmp_path / "undisturbed", [])


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Backend]:
    """What a spec's trials give undisturbed, with MLflow's records where that is on; each spec
    once.
    """
    known: dict[str, Backend] = {}

    def ran(path: Path, environment: dict[str, str] | None = None) -> Backend:
        if (text := path.read_text(encoding="utf-8")) not in known:
            backend = Backend("local", tmp_path_factory.mktemp("reference"), [])
            inprocess.train(path, backend.results, environment)
            known[text] = backend
        return known[text]

    return ran
