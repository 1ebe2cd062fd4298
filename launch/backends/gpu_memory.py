"""Before several trials are packed onto one GPU: whether they fit, by what such trials were seen
to need, not by hope.
"""

import json
import os
import platform
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from launch.errors import UsageError
from launch.gpus import query
from launch.runs import rundir
from launch.runs.rundir import RunDir

PROCESS_MIB = 600
"""What CUDA itself takes in each process, beside the tensors."""
SLACK = 1.1
"""The caching allocator holds somewhat more than its peak of live tensors."""
_SECTIONS = ("dataset", "backbone", "method", "train", "optimizer")
_NOT_FOOTPRINT = {
    "train": ("epochs", "evaluate_every", "keep_best"),
    "dataset": ("limit", "test_limit", "held_out"),
}


def check(
    run_dirs: Sequence[Path], per_gpu: int, min_free: Callable[[], tuple[float, str]]
) -> None:
    """UsageError where `per_gpu` of these trials side by side would need more memory than a GPU
    has free.

    The peak is that of such trials (another seed, more epochs), as their journals recorded it; of
    what has never run on a GPU nothing is known, and nothing is refused.

    min_free   (MiB, which GPU) of the GPU with the least memory free
    """
    if per_gpu <= 1:
        return
    known: dict[str, float] = {}
    for kind, peak in _known_peaks(run_dirs[0].parent):
        known[kind] = max(peak, known.get(kind, 0.0))
    of_kind = {footprint(values): run_dir for run_dir in run_dirs if (values := _values(run_dir))}
    there = known.keys() & of_kind.keys()
    if there:
        free, where = min_free()
        for kind in there:
            as_trial = f"{where}, as trial {of_kind[kind].name} would"
            refuse_if_too_much(known[kind], free, per_gpu, as_trial)


def refuse_if_too_much(peak: float, free: float, per_gpu: int, where: str) -> None:
    """All in MiB."""
    each = SLACK * peak + PROCESS_MIB
    if per_gpu * each <= free:
        return
    fit = int(free // each)
    raise UsageError(
        f"{per_gpu} trials do not fit on {where}: each needs {each:.0f} MiB ({peak:.0f} at its "
        "peak, and CUDA's own), "
        f"{free:.0f} MiB are free; "
        + (f"--trials-per-gpu {fit} would fit" if fit else "not even one would fit")
    )


def footprint(values: dict[str, Any]) -> str:
    """What the memory of a trial depends on: not its seed, its length, its learning rate or how
    many images there are.
    """
    left_out = {section: _NOT_FOOTPRINT.get(section, ()) for section in _SECTIONS}
    kept = {
        section: {name: value for name, value in values[section].items() if name not in names}
        for section, names in left_out.items()
    }
    kept["optimizer"] = {"name": values["optimizer"]["name"]}
    return json.dumps({**kept, "task": values.get("task")}, sort_keys=True)


def free_memory(gpus: str | None = None) -> dict[str, Any]:
    """Of each GPU of this machine, or of those (`0,2`), in MiB, as nvidia-smi says; or why it
    cannot be told.
    """
    answer: dict[str, Any] = {"host": platform.node(), "free": [], "problem": None}
    try:
        answer["free"] = [float(free) for (free,) in query(["memory.free"], gpus)]
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        answer["problem"] = f"nvidia-smi: {error}"
    return answer


def min_free(answers: Sequence[dict[str, Any]]) -> tuple[float, str]:
    """(MiB, which GPU) of the GPU with the least memory free, among what `free_memory` told of
    some machines.
    """
    for answer in answers:
        if answer["problem"] or not answer["free"]:
            raise UsageError(
                f"whether several trials fit on one GPU cannot be told on node {answer['host']} "
                f"({answer['problem'] or 'nvidia-smi lists none'}); leave --trials-per-gpu out"
            )
    return min(
        (free, f"GPU {i} of {answer['host']}")
        for answer in answers
        for i, free in enumerate(answer["free"])
    )


def min_free_here() -> tuple[float, str]:
    """The same of the GPUs that CUDA_VISIBLE_DEVICES gives, as in a SLURM job; without it, of all
    of this machine.
    """
    return min_free([free_memory(os.environ.get("CUDA_VISIBLE_DEVICES"))])


def _known_peaks(runs: Path) -> Iterator[tuple[str, float]]:
    for trial in runs.glob(f"*/{rundir.TRIAL}"):
        peaks = _peaks(trial.parent)
        if peaks and (values := _values(trial.parent)):
            yield footprint(values), max(peaks)


def _peaks(run_dir: Path) -> list[float]:
    """Of its epochs; none where several processes shared each batch."""
    events, _ = RunDir(run_dir).readable_events()
    if any(event.get("processes", 1) > 1 for event in events):
        return []
    return [
        event["peak_memory_mib"]
        for event in events
        if event["event"] == "epoch" and "peak_memory_mib" in event
    ]


def _values(run_dir: Path) -> dict[str, Any]:
    """The trial, or nothing where it is not readable; its own run says so."""
    try:
        values = RunDir(run_dir).trial
        return values if values.keys() >= set(_SECTIONS) else {}
    except (OSError, ValueError):
        return {}
