"""This machine: a queue of run directories over warm worker processes, one a GPU slot, or a share
of the CPU's threads each.
"""

from collections.abc import Sequence
from pathlib import Path

from launch.backends import gpu_memory
from launch.backends.base import Backend, Limits, Watcher
from launch.backends.local.pool import Pool, Slot, WorkerProcess
from launch.backends.queue import Trials, by_processes, on_signals
from launch.backends.threads import thread_environment
from launch.errors import UsageError
from launch.gpus import cores, visible_gpus
from launch.runs.job import Outcome


class LocalBackend(Backend):
    """Ctrl-C or SIGTERM once: checkpoint all and stop; twice: kill."""

    name = "local"
    can_search = True
    keeps_deadlines = True

    def __init__(self, process: type[WorkerProcess] = WorkerProcess) -> None:
        self.process = process

    def check(self, limits: Limits) -> None:
        if limits.trials_per_gpu > 1 and not visible_gpus():
            raise UsageError(
                f"--trials-per-gpu {limits.trials_per_gpu}: there is no GPU on this machine that "
                "may be used; --workers N says how many trials train at a time"
            )

    def run(
        self, run_dirs: Sequence[Path], watcher: Watcher, limits: Limits
    ) -> dict[Path, Outcome]:
        """Trials that take several GPUs come first, and have them to themselves."""
        self._check_memory(run_dirs, limits)
        trials = Trials(run_dirs, watcher, limits.deadline)
        places = [slot for count in trials.ready for slot in _slots(count, limits)]
        pool = Pool(trials, places, limits.workers, self.process)
        with on_signals(pool.stop):
            pool.run()
        return trials.close()

    def _check_memory(self, run_dirs: Sequence[Path], limits: Limits) -> None:
        """UsageError where recorded needs say that so many trials do not fit on one GPU."""
        gpus, single = visible_gpus(), dict(by_processes(run_dirs)).get(1, [])
        if gpus and single:
            per_gpu = -(-(limits.workers or limits.trials_per_gpu * len(gpus)) // len(gpus))
            gpu_memory.check(single, min(per_gpu, len(single)), gpu_memory.min_free_here)


def _slots(count: int, limits: Limits) -> list[Slot]:
    """Of the trials that so many processes train. Where there is no GPU, trials of one such group
    at a time share the cores.
    """
    found = slots(limits) if count == 1 else group_slots(count, limits.workers)
    return [
        Slot(count, each, frozenset((each["CUDA_VISIBLE_DEVICES"] or "cores").split(",")))
        for each in found
    ]


def slots(limits: Limits) -> list[dict[str, str]]:
    """The environment of each worker: its GPU, or its share of the CPU's threads.

    The share does not depend on how many trials are left: sums on a CPU depend on the number of
    threads, so a trial's bits would.
    """
    gpus = visible_gpus()
    wanted = limits.workers or (len(gpus) * limits.trials_per_gpu or cores())
    shared = thread_environment(max(1, cores() // wanted))
    if not gpus:
        return [{**shared, "CUDA_VISIBLE_DEVICES": ""} for _ in range(wanted)]
    # On every GPU, however few may work: larger trials may have the first ones.
    count = -(-wanted // len(gpus)) * len(gpus)
    return [{**shared, "CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)]} for i in range(count)]


def group_slots(processes: int, workers: int | None) -> list[dict[str, str]]:
    """The same of trials that so many processes train together: each has so many GPUs, or its
    share of the threads.

    UsageError where this machine has fewer GPUs.
    """
    gpus = visible_gpus()
    if 0 < len(gpus) < processes:
        raise UsageError(
            f"there are trials that take {processes} GPUs each, and this machine has {len(gpus)}; "
            "--gpus N trains each on fewer, --backend slurm where there are more"
        )
    fit = len(gpus) // processes or max(1, cores() // processes)
    wanted = min(workers or fit, fit) if gpus else workers or fit
    shared = thread_environment(max(1, cores() // (wanted * processes)))
    return [
        {**shared, "CUDA_VISIBLE_DEVICES": ",".join(gpus[i * processes : (i + 1) * processes])}
        for i in range(fit if gpus else wanted)
    ]
