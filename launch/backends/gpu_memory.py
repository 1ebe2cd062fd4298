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

from launch.console import say
from launch.errors import UsageError
from launch.runs import rundir
from launch.spec.trial import Trial, canonical

PROCESS_MIB = 600
"""What CUDA itself takes in each process, beside the tensors."""
SLACK = 1.1
"""The caching allocator holds somewhat more than its peak of live tensors."""
_PROBE_BATCHES = 3
_PROBE_TEST_IMAGES = 500
_NOT_FOOTPRINT = {
    "train": ("epochs", "evaluate_every"),
    "dataset": ("limit", "test_limit", "held_out"),
}


def check(
    run_dirs: Sequence[Path],
    per_gpu: int,
    least_free: Callable[[], tuple[float, str]],
    run_alone: Callable[[Path], str | None],
) -> None:
    """UsageError where `per_gpu` of these trials side by side would need more memory than a GPU
    has free.

    The peak is read from the journals of such trials (another seed, more epochs), where there are
    any, else measured: three batches of the trial are run in `results/probes/`.

    least_free   (MiB, which GPU) of the GPU with the least memory free
    run_alone    runs a run directory on a GPU; returns the error that it ended with
    """
    if per_gpu <= 1:
        return
    free, where = least_free()
    known: dict[str, float] = {}
    for kind, peak in _known_peaks(run_dirs[0].parent):
        known[kind] = max(peak, known.get(kind, 0.0))
    for run_dir in run_dirs:
        values = _values(run_dir)
        kind = footprint(values)
        if kind not in known:
            known[kind] = _probe(run_dir, values, run_alone)
        refuse_if_too_much(known[kind], free, per_gpu, f"{where}, as trial {run_dir.name} would")


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
    kept = {section: values[section] for section in ("dataset", "backbone", "method", "train")}
    for section, options in _NOT_FOOTPRINT.items():
        kept[section] = {
            name: value for name, value in kept[section].items() if name not in options
        }
    return canonical({**kept, "optimizer": values["optimizer"]["name"]})


def free_memory(gpus: str | None = None) -> dict[str, Any]:
    """Of each GPU of this machine, or of those (`0,2`), in MiB, as nvidia-smi says; or why it
    cannot be told.
    """
    words = ["nvidia-smi", "--query-gpu=memory.free", "--format=csv,noheader,nounits"]
    answer: dict[str, Any] = {"host": platform.node(), "free": [], "problem": None}
    try:
        which = [f"--id={gpus}"] if gpus else []
        said = subprocess.run(
            [*words, *which], capture_output=True, text=True, timeout=60, check=True
        ).stdout
        answer["free"] = [float(line) for line in said.split()]
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        answer["problem"] = f"nvidia-smi: {error}"
    return answer


def least(answers: Sequence[dict[str, Any]]) -> tuple[float, str]:
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


def least_of_this_job() -> tuple[float, str]:
    """The same of the GPUs that CUDA_VISIBLE_DEVICES gives."""
    return least([free_memory(os.environ.get("CUDA_VISIBLE_DEVICES"))])


def _known_peaks(runs: Path) -> Iterator[tuple[str, float]]:
    for trial in runs.glob("*/trial.json"):
        peaks = _peaks(trial.parent)
        if peaks:
            try:
                yield footprint(_values(trial.parent)), max(peaks)
            except (ValueError, KeyError):
                continue  # not a trial that could be run; its own run says so


def _peaks(run_dir: Path) -> list[float]:
    """Of its epochs; none where several processes shared each batch."""
    events, _ = rundir.read_events(run_dir)
    if any(event.get("processes", 1) > 1 for event in events):
        return []
    return [
        event["peak_memory_mib"]
        for event in events
        if event["event"] == "epoch" and "peak_memory_mib" in event
    ]


def _values(run_dir: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((run_dir / "trial.json").read_text(encoding="utf-8"))
    return {name: value for name, value in values.items() if name not in ("id", "numerics")}


def _probe(
    run_dir: Path, values: dict[str, Any], run_alone: Callable[[Path], str | None]
) -> float:
    """Train a few batches of the trial alone; returns its peak in MiB."""
    say(f"no trial like {run_dir.name} has run on a GPU yet: trying how much memory it takes")
    shorter = {**values, "train": {**values["train"], "epochs": 1}}
    images = _PROBE_BATCHES * values["train"]["batch_size"]
    shorter["dataset"] = {**values["dataset"], "limit": images, "test_limit": _PROBE_TEST_IMAGES}
    trial = Trial(shorter)
    folder = run_dir.parent.parent / "probes" / trial.id
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "trial.json").write_text(trial.to_json(), encoding="utf-8")
    error = run_alone(folder)
    peaks = _peaks(folder)
    if not peaks:
        raise UsageError(
            f"how much memory trial {run_dir.name} takes cannot be told: "
            f"{error or 'it did not run on a GPU'}; "
            "leave --trials-per-gpu out"
        )
    return max(peaks)
