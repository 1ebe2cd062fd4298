"""What one trial is trained on: so many nodes with so many GPUs each, one process a GPU. Not part
of its identity.

`batch_norm_groups` says what batch norm sees, whatever number of processes there is; that number
changes the order of sums and how a batch is dealt out, as another kind of GPU would. A trial that
has begun keeps its number: its checkpoint is of so many processes.

    results/runs/<trial id>/resources.json      {"nodes": 1, "gpus": 8}; not there where it is one
    GPU
"""

import argparse
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from launch.runs import rundir
from launch.runs.rundir import RunDir
from rm.files import write_atomically


class Resources(NamedTuple):
    """Of one trial; `gpus` on each node. Where there are none, as many processes on the CPU."""

    nodes: int = 1
    gpus: int = 1

    @property
    def processes(self) -> int:
        return self.nodes * self.gpus

    def __str__(self) -> str:
        gpus = f"{self.gpus} GPU{'s' * (self.gpus > 1)}"
        return f"{self.nodes} nodes with {gpus} each" if self.nodes > 1 else gpus


ONE = Resources()


def parse(text: str) -> Resources:
    """What `--gpus` takes: `8`, or `2x4` for two nodes with four each."""
    found = re.fullmatch(r"(?:([1-9]\d*)x)?([1-9]\d*)", text)
    if found is None:
        raise argparse.ArgumentTypeError(
            f"must be a number of GPUs such as 8, or NODESxGPUS such as 2x4; found '{text}'"
        )
    return Resources(int(found[1] or 1), int(found[2]))


def misfit(values: Mapping[str, Any], resources: Resources) -> str | None:
    """Why a trial of these values cannot be trained by so many processes, or None."""
    count = resources.processes
    if count == 1:
        return None
    if "probe" in values:
        return f"a measurement (probe) takes one process, not {count}"
    batch, groups = values["train"]["batch_size"], values["train"]["batch_norm_groups"]
    if batch % count or groups % count:
        common = math.gcd(batch, groups)
        valid = ", ".join(str(n) for n in range(1, common + 1) if common % n == 0)
        return (
            f"train.batch_size {batch} and train.batch_norm_groups {groups} cannot be shared by "
            f"{count} processes "
            f"({resources}): both must be multiples of it; valid: {valid}"
        )
    return None


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
    """How many processes train, or trained, the run that its journal tells of."""
    events, _ = RunDir(run_dir).events()
    return next(
        (int(event.get("processes", 1)) for event in events if event["event"] == "started"), 1
    )


def _read(run_dir: Path) -> Resources:
    found = RunDir(run_dir).resources
    return ONE if found is None else Resources(**found)
