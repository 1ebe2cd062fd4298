"""Longest first: what is long must not be left to the end, when all but one worker have nothing to
do any more.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

from launch.backends.queue import parents_of
from launch.runs import rundir
from launch.runs.rundir import RunDir
from launch.spec.trial import canonical

Item = TypeVar("Item")
_IMAGES = 50_000
"""Of a data set without a `limit`, as long as nothing is known of it; CIFAR's."""


def longest_first(run_dirs: Sequence[Path]) -> list[Path]:
    """By epochs times the seconds an epoch took in runs alike (another seed, more epochs), and the
    longest of what starts from it; those alike keep their order.

    Where no run alike is on disk, an epoch counts by its images, at the pace of the runs that are.
    """
    if not run_dirs:
        return []
    known = seconds_of_an_epoch(run_dirs[0].parent)
    paces = [seconds / images for (_, images), seconds in known.items()]
    pace = median(paces) if paces else 1.0
    costs = {}
    for run_dir in run_dirs:
        values = _values(run_dir)
        kind = kind_of(values)
        epoch = known[kind] if kind in known else kind[1] * pace
        costs[run_dir] = epoch * values.get("train", {}).get("epochs", 1)
    chains = _with_children(costs)
    return sorted(run_dirs, key=lambda run_dir: -chains[run_dir])


def _with_children(costs: Mapping[Path, float]) -> dict[Path, float]:
    """Each cost with that of the costliest chain of trials that start from it: a parent comes
    before its children, and the longest chain first.
    """
    children: dict[Path, list[Path]] = {}
    for run_dir in costs:
        for parent in parents_of(run_dir):
            children.setdefault(parent, []).append(run_dir)
    chains: dict[Path, float] = {}

    def chain(run_dir: Path) -> float:
        if run_dir not in chains:
            after = max(map(chain, children.get(run_dir, ())), default=0.0)
            chains[run_dir] = costs[run_dir] + after
        return chains[run_dir]

    return {run_dir: chain(run_dir) for run_dir in costs}


def balance(run_dirs: Sequence[Item], tasks: int) -> list[list[Item]]:
    """Longest first, to each task in turn and back again: cut into pieces, the first job would
    have all the long ones.
    """
    shares: list[list[Item]] = [[] for _ in range(tasks)]
    for number, run_dir in enumerate(run_dirs):
        turn, place = divmod(number, tasks)
        shares[place if turn % 2 == 0 else tasks - 1 - place].append(run_dir)
    return shares


def seconds_of_an_epoch(runs: Path, device: str = "") -> dict[tuple[str, int], float]:
    """`kind_of` a trial -> what an epoch took in its runs here, the median of their medians.

    device   how the device that trained is called: cpu, cuda; empty: any
    """
    known: dict[tuple[str, int], list[float]] = defaultdict(list)
    for trial in runs.glob(f"*/{rundir.TRIAL}"):
        events, _ = RunDir(trial.parent).readable_events()
        devices = {str(event.get("device", "")) for event in events}
        if device and not any(each.startswith(device) for each in devices):
            continue
        seconds = [
            event["epoch_seconds"]
            for event in events
            if event["event"] == "epoch" and "epoch_seconds" in event
        ]
        if seconds:
            known[kind_of(_values(trial.parent))].append(median(seconds))
    return {kind: median(seconds) for kind, seconds in known.items()}


def _values(run_dir: Path) -> dict[str, Any]:
    """The trial, or nothing where it is not readable; its own run says so."""
    try:
        return RunDir(run_dir).trial
    except (OSError, ValueError):
        return {}


def kind_of(values: Mapping[str, Any]) -> tuple[str, int]:
    """What the time of an epoch depends on, and its number of images."""
    kept = {
        section: values.get(section, {}) for section in ("dataset", "backbone", "method", "train")
    }
    kept["train"] = {name: value for name, value in kept["train"].items() if name != "epochs"}
    return canonical(kept), kept["dataset"].get("limit") or _IMAGES
