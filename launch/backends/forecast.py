"""When a queue of trials would be done: what the local backend would do, in no time.

Slots and their choice are the backend's own (`launch/backends/local/pool.py`); trials take as long
as they are said to.
"""

import heapq
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from launch.backends.local.pool import Slot, choose
from launch.errors import UsageError

CHECKPOINT_SECONDS = 300.0
"""Between two checkpoints; half of it is done again after a preemption."""
RESTART_SECONDS = 60.0
"""From a preemption's end to the first step: processes, networks, data."""


class Job(NamedTuple):
    """A trial to forecast.

    seconds   on its GPUs
    parents   names of what it starts from; those not among the jobs are there already
    """

    name: str
    seconds: float
    gpus: int = 1
    parents: tuple[str, ...] = ()


class Forecast(NamedTuple):
    """makespan, chain (the longest of trials that start from each other) in seconds; work in GPU
    seconds.
    """

    makespan: float
    chain: float
    work: float


def forecast(jobs: Sequence[Job], gpus: int, preempt_every: float | None = None) -> Forecast:
    """Run the jobs on so many GPUs of one machine, or of several whose trials stay on one.

    preempt_every   seconds after which what runs is stopped, and resumes from its checkpoint

    UsageError where a trial takes more GPUs than there are.
    """
    if (most := max((job.gpus for job in jobs), default=0)) > gpus:
        raise UsageError(f"there are trials that take {most} GPUs each, and --gpus says {gpus}")
    again = CHECKPOINT_SECONDS / 2 + RESTART_SECONDS
    stretch = 1 + again / preempt_every if preempt_every else 1.0
    stretched = {job.name: job._replace(seconds=stretch * job.seconds) for job in jobs}
    chains = _chains(stretched)
    work = sum(job.seconds * job.gpus for job in stretched.values())
    makespan = _makespan(stretched, chains, gpus)
    return Forecast(makespan, max(chains.values(), default=0.0), work)


def _chains(jobs: Mapping[str, Job]) -> dict[str, float]:
    """Of each job and what starts from it, the seconds of the longest chain."""
    children: dict[str, list[str]] = {}
    for job in jobs.values():
        for parent in job.parents:
            children.setdefault(parent, []).append(job.name)
    found: dict[str, float] = {}

    def chain(name: str) -> float:
        if name not in found:
            after = max(map(chain, children.get(name, ())), default=0.0)
            found[name] = jobs[name].seconds + after
        return found[name]

    return {name: chain(name) for name in jobs}


def _makespan(jobs: Mapping[str, Job], chains: Mapping[str, float], gpus: int) -> float:
    slots = [
        Slot(size, {}, frozenset(map(str, range(first, first + size))))
        for size in sorted({job.gpus for job in jobs.values()}, reverse=True)
        for first in range(0, gpus - size + 1, size)
    ]
    waiting = {job.name: set(job.parents) & jobs.keys() for job in jobs.values()}
    ready: dict[int, list[tuple[float, str]]] = {slot.group: [] for slot in slots}
    running: list[tuple[float, str]] = []
    busy: dict[str, Slot] = {}

    def release(name: str) -> None:
        heapq.heappush(ready[jobs[name].gpus], (-chains[name], name))

    for name in [name for name, parents in waiting.items() if not parents]:
        release(name)
    now = 0.0
    while True:
        counts = {group: len(heap) for group, heap in ready.items()}
        for slot in choose(slots, list(busy.values()), counts):
            name = heapq.heappop(ready[slot.group])[1]
            busy[name] = slot
            heapq.heappush(running, (now + jobs[name].seconds, name))
        if not running:
            return now
        now, ended = heapq.heappop(running)
        del busy[ended]
        for name, parents in waiting.items():
            if ended in parents:
                parents.remove(ended)
                if not parents:
                    release(name)
