"""One real cluster for all tests here, launchers that talk to it, and what trials end with when
nothing disturbs them.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from rm.train import fit
from rm.trial import load_trial
from tests.support.slurm.cluster import INSTALL, Cluster, missing, running
from tests.support.slurm.launcher import Launcher
from tests.support.trials import deterministic


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Without accounting, and with arrays of five at most."""
    if lacking := missing():
        pytest.skip(f"no SLURM here ({', '.join(lacking)} not found): {INSTALL}")
    with running(max_array_size=5) as started:
        yield started


@pytest.fixture
def launcher(cluster: Cluster, tmp_path: Path) -> Iterator[Launcher]:
    yield Launcher(cluster, tmp_path)
    cluster.ask(
        "scancel", "--quiet", f"--user={os.environ.get('USER') or 'root'}"
    )  # what a failed test left behind


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """The numbers of a run directory's trial when it is trained in this process, each trial
    once.
    """
    known = {}

    def numbers(run_dir: Path) -> list[dict]:
        if run_dir.name not in known:
            folder = tmp_path_factory.mktemp("undisturbed")
            (folder / "trial.json").write_text((run_dir / "trial.json").read_text())
            fit(load_trial(folder / "trial.json"), folder)
            known[run_dir.name] = deterministic(folder)
        return known[run_dir.name]

    return numbers
