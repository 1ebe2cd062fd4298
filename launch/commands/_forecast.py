"""When a plan would be done on so many GPUs."""

import argparse
import re
import time
from collections.abc import Iterator
from pathlib import Path

from launch.backends.forecast import CHECKPOINT_SECONDS, RESTART_SECONDS, Job, forecast
from launch.backends.scheduling import kind_of, seconds_of_an_epoch
from launch.plan import Plan, Planned
from launch.runs.rundir import RunDir
from launch.spec.load import Spec

_UNITS = {"m": 60.0, "h": 3600.0, "d": 86400.0}


def span(text: str) -> float:
    """An argument's type: 90m, 6h, 2d -> seconds."""
    number, unit = text[:-1], text[-1:]
    if unit not in _UNITS or not re.fullmatch(r"\d+(\.\d+)?", number) or not float(number):
        raise argparse.ArgumentTypeError(f"minutes, hours or days such as 6h, found '{text}'")
    return float(number) * _UNITS[unit]


def tell_forecast(
    plan: Plan, runs: Path, gpus: int, preempt_every: float | None, each: int | None = None
) -> Iterator[str]:
    """Lines on the GPU-hours that are left and when they would be done.

    each   GPUs of each trial, instead of what the specs say
    """
    left = [u for u in plan.unique.values() if u.state not in ("finished", "stopped")]
    measured, jobs, unknown = 0.0, [], 0
    known = seconds_of_an_epoch(runs, device="cuda")
    for use in left:
        size = each or use.cell.resources.processes
        epochs = use.trial.epochs - (RunDir(runs / use.trial.id).position()[0] - 1)
        if (pace := known.get(kind_of(use.trial.values))) is not None and use.trial.epochs:
            seconds = pace * epochs
            measured += seconds * size
        elif (hours := stated_hours(use)) is not None:
            share = epochs / use.trial.epochs if use.trial.epochs else 1.0
            seconds = 3600 * hours * share / size
        else:
            unknown += 1
            continue
        jobs.append(Job(use.trial.id, seconds, size, use.trial.parents))
    found = forecast(jobs, gpus, preempt_every)
    plain = sum(job.seconds * job.gpus for job in jobs)
    yield (
        f"{len(jobs)} trials to train take {plain / 3600:,.0f} GPU-hours: "
        f"{measured / 3600:,.0f} by the pace of runs alike on GPUs, "
        f"{(plain - measured) / 3600:,.0f} as the first lines of their specs say (at 30 TFLOP/s)"
    )
    if unknown:
        yield f"left out: {unknown} trials of which nothing is measured or stated"
    if preempt_every:
        yield (
            f"stopped every {preempt_every / 3600:g} h: each time {CHECKPOINT_SECONDS / 2:.0f} s "
            f"are done again and {RESTART_SECONDS:.0f} s pass until the next step, "
            f"{found.work / plain - 1 if plain else 0:.1%} in all"
        )
    done = time.strftime("%a %d %b %Y, %H:%M", time.localtime(time.time() + found.makespan))
    yield (
        f"on {gpus} GPUs: {_long(found.makespan)}, done on {done} if it starts now; "
        f"{_long(found.work / gpus)} would be the least for the work, {_long(found.chain)} for "
        "the longest chain"
    )


def _long(seconds: float) -> str:
    if seconds >= 2 * 86400:
        return f"{seconds / 86400:.1f} days"
    return f"{seconds / 3600:.1f} hours" if seconds >= 3600 else f"{seconds / 60:.0f} minutes"


def stated_hours(use: Planned) -> float | None:
    """GPU-hours of one trial, by the first line of its spec; None where it says nothing, or where
    the trial is of another variant.
    """
    stated = stated_gpu_hours(use.spec)
    if stated is None or use.spec.variant is not None:
        return None
    return stated / max(1, len({trial.id for trial in use.spec.trials}))


def stated_gpu_hours(spec: Spec) -> float | None:
    """Of all its trials, as the spec's first line says."""
    first = spec.path.read_text(encoding="utf-8").splitlines()[0]
    stated = re.search(r"[Aa]bout ([\d,.]+) GPU-hours", first)
    return float(stated[1].replace(",", "")) if stated else None
