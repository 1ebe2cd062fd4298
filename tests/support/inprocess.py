"""Trials trained undisturbed by this very process, which has torch already: a worker process takes
longer to start than such a trial to train.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from unittest import mock

from launch import cli
from launch.plan import make_plan
from launch.runs.create import prepare
from launch.spec.load import load_spec
from launch.worker.worker import run_one


def train(
    spec: Path,
    results: Path,
    environment: Mapping[str, str] | None = None,
    *,
    profile: str | None = None,
    seeds: Sequence[int] | None = None,
) -> None:
    """Train all trials of a spec, parents first, into a results folder."""
    runs = results / "runs"
    # One thread, as two workers on two cores have; pictures are read by this process.
    alone = {"RM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **(environment or {})}
    alone |= {"RM_RESULTS_DIR": str(results), "RM_LOADER_WORKERS": "0"}
    with mock.patch.dict(os.environ, alone):
        uses = make_plan([load_spec(spec, profile, seeds)], runs).uses
        prepare(uses, runs)
        trials = {use.trial.id: use.trial for use in uses}
        while trials:
            trial = next(each for each in trials.values() if not trials.keys() & set(each.parents))
            answer = run_one(runs / trial.id, lambda: False)
            assert answer["outcome"] == "finished", answer
            del trials[trial.id]
        if os.environ.get("RM_TRACKING") == "on":
            assert cli.main(["sync"]) == 0
