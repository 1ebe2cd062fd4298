"""What a run directory is trained on. Not part of a trial's identity; a trial that has begun keeps
its number of processes, as its checkpoint is of so many.

    results/runs/<trial id>/resources.json      {"nodes": 1, "gpus": 8}; not there where it is one
    GPU
"""

import json
from pathlib import Path

from launch.runs import rundir
from launch.runs.contents import Damaged
from launch.runs.rundir import RunDir
from launch.spec.resources import ONE, Resources
from rm.files import write_atomically


def keep(run_dir: Path, resources: Resources) -> None:
    """Write down what a trial is to be trained on, for whatever starts it."""
    path = run_dir / rundir.RESOURCES
    if resources == ONE:
        path.unlink(missing_ok=True)
    elif _read(run_dir) != resources:
        write_atomically(path, json.dumps(resources._asdict()))


def wanted(run_dir: Path) -> Resources:
    """What a run directory is to be trained on; one that has begun, by as many processes as it
    began with.
    """
    asked = _read(run_dir)
    begun = RunDir(run_dir).has(rundir.CHECKPOINT)
    processes = processes_of(run_dir) if begun else asked.processes
    return asked if processes == asked.processes else Resources(1, processes)


def differs(run_dir: Path, resources: Resources) -> bool:
    """Whether it has begun with another number of processes than is asked for now."""
    return wanted(run_dir).processes != resources.processes


def processes_of(run_dir: Path) -> int:
    """How many processes train, or trained, the run that its journal tells of. Of a damaged one,
    one: its own run says that it is.
    """
    try:
        events, _ = RunDir(run_dir).events()
    except (OSError, Damaged):
        return 1
    return next(
        (int(event.get("processes", 1)) for event in events if event["event"] == "started"), 1
    )


def _read(run_dir: Path) -> Resources:
    try:
        found = RunDir(run_dir).resources
    except (OSError, Damaged):
        return ONE
    return ONE if found is None else Resources(**found)
