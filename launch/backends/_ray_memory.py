"""Before several trials are packed onto one GPU: whether they fit, by what such trials were seen to need, not by hope."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from launch import rundir
from launch.backends._ray_cluster import Slots, environment, library
from launch.backends._ray_worker import Worker, free_memory
from launch.commands import UsageError, say
from launch.trial import Trial, canonical

PROCESS_MIB = 600
"""What CUDA itself takes in each process, beside the tensors."""
SLACK = 1.1
"""The caching allocator holds somewhat more than its peak of live tensors."""
_PROBE_BATCHES = 3
_PROBE_TEST_IMAGES = 500
_NOT_FOOTPRINT = {"train": ("epochs", "evaluate_every"), "dataset": ("limit", "test_limit", "held_out")}


def check_memory(run_dirs: Sequence[Path], slots: Slots) -> None:
    """UsageError where `slots.per_gpu` of these trials side by side would need more memory than a GPU has free.

    The peak is read from the journals of such trials (another seed, more epochs), where there are any, else measured: three
    batches of the trial are run in `results/probes/`.
    """
    if slots.per_gpu <= 1:
        return
    free, where = _least_free()
    known = dict(_known_peaks(run_dirs[0].parent))
    for run_dir in run_dirs:
        values = _values(run_dir)
        kind = footprint(values)
        if kind not in known:
            known[kind] = _probe(run_dir, values, slots)
        refuse_if_too_much(known[kind], free, slots.per_gpu, f"{where}, as trial {run_dir.name} would")


def refuse_if_too_much(peak: float, free: float, per_gpu: int, where: str) -> None:
    """All in MiB."""
    each = SLACK * peak + PROCESS_MIB
    if per_gpu * each <= free:
        return
    fit = int(free // each)
    raise UsageError(
        f"{per_gpu} trials do not fit on {where}: each needs {each:.0f} MiB ({peak:.0f} at its peak, and CUDA's own), "
        f"{free:.0f} MiB are free; " + (f"--trials-per-gpu {fit} would fit" if fit else "not even one would fit")
    )


def footprint(values: dict[str, Any]) -> str:
    """What the memory of a trial depends on: not its seed, its length, its learning rate or how many images there are."""
    kept = {section: values[section] for section in ("dataset", "backbone", "method", "train")}
    for section, options in _NOT_FOOTPRINT.items():
        kept[section] = {name: value for name, value in kept[section].items() if name not in options}
    return canonical({**kept, "optimizer": values["optimizer"]["name"]})


def _known_peaks(runs: Path) -> Iterator[tuple[str, float]]:
    for trial in runs.glob("*/trial.json"):
        peaks = _peaks(trial.parent)
        if peaks:
            try:
                yield footprint(_values(trial.parent)), max(peaks)
            except (ValueError, KeyError):
                continue  # not a trial that could be run; its own run says so


def _peaks(run_dir: Path) -> list[float]:
    events, _ = rundir.read_events(run_dir)
    return [event["peak_memory_mib"] for event in events if event["event"] == "epoch" and "peak_memory_mib" in event]


def _values(run_dir: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((run_dir / "trial.json").read_text(encoding="utf-8"))
    return {name: value for name, value in values.items() if name not in ("id", "numerics")}


def _least_free() -> tuple[float, str]:
    """(MiB, which GPU) of the GPU of the cluster that has the least memory free."""
    ray = library()

    On = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy  # noqa: N806
    ask = ray.remote(num_cpus=0)(free_memory)
    with_gpus = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU")]
    asked = [
        ask.options(
            scheduling_strategy=On(node, soft=False), runtime_env={"env_vars": environment(Slots(1, 1, 1))}
        ).remote()
        for node in with_gpus
    ]
    answers = ray.get(asked)
    for answer in answers:
        if answer["problem"]:
            raise UsageError(
                f"whether several trials fit on one GPU cannot be told on node {answer['host']} ({answer['problem']}); "
                "leave --trials-per-gpu out"
            )
    return min((free, f"GPU {i} of {answer['host']}") for answer in answers for i, free in enumerate(answer["free"]))


def _probe(run_dir: Path, values: dict[str, Any], slots: Slots) -> float:
    """Train a few batches of the trial alone; returns its peak in MiB."""
    ray = library()

    say(f"no trial like {run_dir.name} has run on a GPU yet: trying how much memory it takes")
    shorter = {**values, "train": {**values["train"], "epochs": 1}}
    images = _PROBE_BATCHES * values["train"]["batch_size"]
    shorter["dataset"] = {**values["dataset"], "limit": images, "test_limit": _PROBE_TEST_IMAGES}
    trial = Trial(shorter)
    folder = run_dir.parent.parent / "probes" / trial.id
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "trial.json").write_text(trial.to_json(), encoding="utf-8")
    actor = (
        ray.remote(Worker)
        .options(num_cpus=slots.cpus, num_gpus=slots.gpus, runtime_env={"env_vars": environment(slots)})
        .remote()
    )
    try:
        answer = ray.get(actor.run_one.remote(str(folder)))
    except ray.exceptions.RayError as error:
        answer = {"outcome": "failed", "error": str(error).splitlines()[0]}
    finally:
        ray.kill(actor)
    peaks = _peaks(folder)
    if not peaks:
        reason = answer["error"] or "it did not run on a GPU"
        raise UsageError(
            f"how much memory trial {run_dir.name} takes cannot be told: {reason}; leave --trials-per-gpu out"
        )
    return max(peaks)
