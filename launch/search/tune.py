"""Ray Tune's part of a search: it decides which samples are worth going on with.

Imported only once a Ray cluster is joined: what Ray reads from its environment it reads as it is
imported.

A sample is a trial like any other, trained in its run directory (`launch/search/sample.py`). Tune
is told of one evaluated epoch at a time, and keeps nothing that is needed to go on.
"""

import logging
import os
import shutil
import time
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.search import Searcher

from launch.backends.base import Watcher
from launch.backends.queue import MOST_DEATHS
from launch.backends.ray.cluster import Slots, environment
from launch.runs import rundir
from launch.runs.job import Outcome
from launch.runs.rundir import RunDir
from launch.search.sample import SampleTraining
from launch.search.schedulers import mode_of, scheduler_of, suggester_of
from launch.search.state import SearchState
from rm.metrics import Metric

_GOODBYE_SECONDS = 120.0
_QUIET = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_RESULT_BUFFER_LENGTH": "1",
}
"""One voice, ours, and one handler of signals."""


class SampleTrial(tune.Trainable):
    """One sample as Tune sees it; its process goes on to the next sample."""

    def setup(self, config: dict[str, Any]) -> None:
        os.environ |= config["environment"]  # before torch is imported
        self.training = SampleTraining(
            Path(config["run_dir"]), Metric(*config["metric"]), Path(config["stop_file"])
        )

    def step(self) -> dict[str, Any]:
        return self.training.next()

    def cleanup(self) -> None:
        self.training.end()

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.training.end()
        self.setup(new_config)
        return True

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: the run directory holds the checkpoints."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """As `save_checkpoint`: the training goes on from its run directory."""


class SampleSearcher(Searcher):
    """Hands samples to Tune: those begun earlier and not decided, then new ones, drawn at random
    or by `suggester`.
    """

    def __init__(
        self, state: SearchState, config: dict[str, Any], suggester: Searcher | None
    ) -> None:
        super().__init__(metric="value", mode=mode_of(state))
        self.state, self.config, self.suggester = state, config, suggester
        self.again = state.undecided()
        self.asked: set[str] = set()

    def suggest(self, trial_id: str) -> Any:
        if self.again:
            number, point = self.again.pop(0), None
        else:
            number, point = max(self.state.begun, default=0) + 1, None
            if number > self.state.search.samples:
                return Searcher.FINISHED
            if self.suggester is not None:
                point = self._learned(trial_id, self.suggester)
        self.state.begin(number, point)
        return {"sample": number, "run_dir": str(self.state.run_dir(number)), **self.config}

    def _learned(self, trial_id: str, suggester: Searcher) -> dict[str, Any]:
        suggested: Any = suggester.suggest(trial_id)
        self.asked.add(trial_id)
        return {
            dimension.key: dimension.rounded(suggested[dimension.key])
            for dimension in self.state.search.space
        }

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        if self.suggester is not None and trial_id in self.asked:
            self.suggester.on_trial_result(trial_id, result)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        if self.suggester is not None and trial_id in self.asked:
            self.suggester.on_trial_complete(trial_id, result, error)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: decisions.jsonl has it all."""

    def restore(self, checkpoint_path: str) -> None:
        """As `save`."""


class Reporter(tune.Callback):
    """Journals how samples end and tells the watcher."""

    def __init__(self, state: SearchState, watcher: Watcher) -> None:
        self.state, self.watcher = state, watcher
        self.ends: dict[int, Outcome] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Tune writes what it was given to disk, to restore experiments; ours are not restored
        that way.
        """
        return {}

    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        self.watcher.on_start(self.state.run_dir(trial.config["sample"]))

    def on_trial_result(
        self,
        iteration: int,
        trials: list[Trial],
        trial: Trial,
        result: dict[str, Any],
        **info: Any,
    ) -> None:
        number, outcome = trial.config["sample"], result["outcome"]
        if outcome == "finished":
            self.state.finished(number, result["epoch"], result["value"], result["loss"])
        elif outcome == "failed":
            self.state.failed(number, result["error"])
        if outcome != "running":
            self._ended(
                number,
                Outcome(
                    outcome if outcome in ("finished", "failed") else "interrupted",
                    result["error"],
                ),
            )
        elif number in self.state.decided:
            how = f"stopped at epoch {result['epoch']} by {self.state.search.scheduler.name}"
            self._ended(number, Outcome("interrupted", how))

    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        number = trial.config["sample"]
        error = (
            f"its worker process ended {MOST_DEATHS} times; see "
            f"{self.state.run_dir(number) / rundir.LOG}"
        )
        self.state.failed(number, error)
        self._ended(number, Outcome("failed", error))

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        self.watcher.tick()

    def _ended(self, number: int, ended: Outcome) -> None:
        if number not in self.ends:
            self.ends[number] = ended
            self.watcher.on_end(self.state.run_dir(number), ended)


class _StopAll(tune.Stopper):
    """Ends the experiment once the launcher has been told to stop."""

    def __init__(self, stop_file: Path) -> None:
        self.stop_file = stop_file

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.stop_file.exists()


def search(state: SearchState, watcher: Watcher, slots: Slots, stop_file: Path) -> None:
    """On the Ray cluster that is joined: go on until every sample is decided, or until `stop_file`
    is there.
    """
    os.environ |= {name: os.environ.get(name, value) for name, value in _QUIET.items()}
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what fails is told by us
    try:
        _tuner(state, watcher, slots, stop_file).fit()
        _wait_for_goodbyes(state)
    finally:
        shutil.rmtree(state.folder / "tune", ignore_errors=True)


def _tuner(state: SearchState, watcher: Watcher, slots: Slots, stop_file: Path) -> tune.Tuner:
    config = {
        "metric": tuple(state.search.objective),
        "stop_file": str(stop_file),
        "environment": environment(slots),
    }
    return tune.Tuner(
        tune.with_resources(SampleTrial, {"cpu": slots.cpus, "gpu": slots.gpus}),
        tune_config=tune.TuneConfig(
            scheduler=scheduler_of(state),
            search_alg=SampleSearcher(state, config, suggester_of(state)),
            num_samples=state.search.samples - len(state.decided),
            max_concurrent_trials=slots.wanted,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(state.folder),
            stop=_StopAll(stop_file),
            failure_config=tune.FailureConfig(max_failures=MOST_DEATHS - 1),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            callbacks=[Reporter(state, watcher)],
            verbose=0,
        ),
    )


def _wait_for_goodbyes(state: SearchState) -> None:
    """Samples that were stopped last may still be writing their checkpoints, in processes that end
    with Ray.
    """
    deadline = time.monotonic() + _GOODBYE_SECONDS
    for number in state.begun:
        while RunDir(state.run_dir(number)).state() == "running" and time.monotonic() < deadline:
            time.sleep(0.1)
