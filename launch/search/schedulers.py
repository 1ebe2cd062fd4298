"""Tune's schedulers and searchers for what a spec's `search:` names, told what earlier launches
decided.

Imported only once a Ray cluster is joined, as `launch/search/tune.py` is.
"""

import math
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler
from ray.tune.search import Searcher

from launch.search.state import SearchState
from launch.spec.search import Asha, Dimension, Median


def mode_of(state: SearchState) -> str:
    """Which way is better, as Tune calls it."""
    return "max" if state.search.objective.better == "higher" else "min"


def scheduler_of(state: SearchState) -> Any:
    """Tune's scheduler, which journals whom it stops, and knows already what decided samples have
    shown.
    """
    chosen, search = state.search.scheduler, state.search
    common: dict[str, Any] = {"time_attr": "epoch", "metric": "value", "mode": mode_of(state)}
    if isinstance(chosen, Asha):
        common |= {
            "grace_period": chosen.grace_epochs,
            "reduction_factor": chosen.reduction_factor,
        }
        scheduler = _journalling(ASHAScheduler, state)(max_t=search.epochs, **common)
    elif isinstance(chosen, Median):
        common |= {
            "grace_period": chosen.grace_epochs,
            "min_samples_required": chosen.least_samples,
        }
        # Endless slices: it never pauses a sample to let others catch up, which would need
        # checkpoints in Tune's hands.
        scheduler = _journalling(MedianStoppingRule, state)(min_time_slice=math.inf, **common)
    else:
        return FIFOScheduler()  # type: ignore[no-untyped-call]
    for number in sorted(state.decided):
        _remember(
            scheduler, [{"epoch": epoch, "value": value} for epoch, value in state.history(number)]
        )
    return scheduler


def _journalling(base: type[TrialScheduler], state: SearchState) -> Any:
    class Journalling(base):  # type: ignore[misc, valid-type]
        def on_trial_result(
            self, tune_controller: Any, trial: Trial, result: dict[str, Any]
        ) -> str:
            decision: str = super().on_trial_result(tune_controller, trial, result)
            if decision == TrialScheduler.STOP and result.get("outcome") == "running":
                state.stopped(
                    trial.config["sample"], result["epoch"], result["value"], result["loss"]
                )
            return decision

    return Journalling


def _remember(scheduler: Any, results: list[dict[str, Any]]) -> None:
    """Show a scheduler what a sample did in an earlier launch; its word on that is not asked
    for.
    """
    if results:
        trial = Trial("remembered", stub=True)
        scheduler.on_trial_add(None, trial)
        for result in results:
            scheduler.on_trial_result(None, trial, result)
        scheduler.on_trial_complete(None, trial, results[-1])


def suggester_of(state: SearchState) -> Searcher | None:
    """What suggests the next point from the earlier ones; None for a random search. ImportError
    without optuna.
    """
    search = state.search
    if search.algorithm == "random":
        return None
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    suggester = OptunaSearch(
        {d.key: _domain(d) for d in search.space},
        metric="value",
        mode=mode_of(state),
        seed=search.seed,
    )
    for number, event in sorted(state.decided.items()):
        if event["event"] != "failed":
            suggester.add_evaluated_point(dict(state.samples[number].point), event["value"])
    return suggester


def _domain(dimension: Dimension) -> Any:
    low, high = dimension.bounds[0], dimension.bounds[-1]
    if dimension.kind == "choice":
        return tune.choice(list(dimension.bounds))
    if dimension.kind == "int":
        return tune.randint(low, high + 1)
    return tune.uniform(low, high) if dimension.kind == "uniform" else tune.loguniform(low, high)
