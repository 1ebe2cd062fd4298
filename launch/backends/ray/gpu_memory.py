"""Whether trials fit on the GPUs of a Ray cluster side by side; `launch/backends/gpu_memory.py`
decides, tasks on the nodes look.
"""

from collections.abc import Sequence
from pathlib import Path

from launch.backends import gpu_memory
from launch.backends.ray.cluster import Slots, environment, library


def check_memory(run_dirs: Sequence[Path], slots: Slots) -> None:
    """UsageError where `slots.per_gpu` of these trials side by side would need more memory than a
    GPU has free.
    """
    gpu_memory.check(run_dirs, slots.per_gpu, _min_free)


def _min_free() -> tuple[float, str]:
    """(MiB, which GPU) of the GPU of the cluster that has the least memory free."""
    ray = library()

    On = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy  # noqa: N806
    ask = ray.remote(num_cpus=0)(gpu_memory.free_memory)
    with_gpus = [
        node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU")
    ]
    answers = [
        ask.options(
            scheduling_strategy=On(node, soft=False),
            runtime_env={"env_vars": environment(Slots(1, 1, 1))},
        ).remote()
        for node in with_gpus
    ]
    return gpu_memory.min_free(ray.get(answers))
