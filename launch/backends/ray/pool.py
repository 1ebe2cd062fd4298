"""Warm Ray actors, fed with one run directory after another; those that die, or whose node does,
are replaced.
"""

import re
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from launch.backends.queue import Trials
from launch.backends.ray.actor import Worker
from launch.backends.ray.cluster import Slots, capacity, environment, library, nodes
from launch.console import say
from launch.errors import UsageError

MOST_FAILED_STARTS = 3
PATIENCE_SECONDS = 60.0
GROW_SECONDS = 5.0
HEAD_SECONDS = 20.0
"""How long the head of the cluster may be out of reach; after 60 s Ray ends this process, without
a word to people.
"""
_NODE_DEATH = "its node has died"
"""What Ray's report of an actor's death says where the node went with it."""


class _ActorHandle:
    """One actor: on its way (no `place` yet), idle, or at work on `run_dir`."""

    def __init__(self, actor: Any, arriving: Any) -> None:
        self.actor, self.call = actor, arriving
        self.place: dict[str, Any] | None = None
        self.run_dir: Path | None = None


class Pool:
    """At most `slots.wanted` actors, over the trials of one group; with `grows`, more where nodes
    join the cluster.
    """

    def __init__(
        self,
        trials: Trials,
        group: int,
        slots: Slots,
        stops: Callable[[], int],
        *,
        grows: bool,
    ) -> None:
        ray = library()

        self.trials, self.group, self.slots = trials, group, slots
        self.stops, self.grows = stops, grows
        self.actors: list[_ActorHandle] = []
        self.example = str(next(iter(trials.place)))
        self.forwarded = 0
        self.failed_starts: list[str] = []
        self.began = self.grown = self.polled = self.answered = time.monotonic()
        self.explained = False
        self.head = ray.get_runtime_context().gcs_address
        self.actor_class = ray.remote(Worker).options(
            num_cpus=slots.cpus,
            num_gpus=slots.gpus,
            max_concurrency=2,
            max_restarts=0,
            scheduling_strategy="SPREAD",
            runtime_env={"env_vars": environment(slots)},
        )

    def run(self) -> bool:
        """Until nothing of the group is left, or may start before another group has trained; false
        where the cluster is gone.
        """
        ray = library()

        try:
            while self._is_open():
                if not self._head_answers():
                    self._abandon()
                    return False
                self._spawn()
                self._receive()
                self._forward_stop()
                self._assign()
                self._look_around()
        finally:
            for handle in self.actors:
                ray.kill(handle.actor)
        return True

    def _head_answers(self) -> bool:
        """Whether the cluster's head can be reached; asked before anything that would wait for it
        in vain.
        """
        if time.monotonic() - self.answered < 1.0:
            return True
        host, _, port = self.head.rpartition(":")
        began = time.monotonic()
        while time.monotonic() - began < HEAD_SECONDS:
            try:
                socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            except OSError:
                time.sleep(1.0)
            else:
                self.answered = time.monotonic()
                return True
        return False

    def _abandon(self) -> None:
        """Without its head a cluster can neither be asked nor told anything; its workers end by
        themselves, as Ray sees to it.
        """
        say(
            f"the head of the Ray cluster at {self.head} has not answered for {HEAD_SECONDS:.0f} "
            "s; its trials end with it, "
            "at their last checkpoints. Once a cluster runs again, the same command resumes them"
        )
        for handle in self.actors:
            if handle.run_dir is not None:
                self.trials.died(
                    handle.run_dir, "the head of the Ray cluster is gone", stopping=True
                )
        self.actors = []

    def _is_open(self) -> bool:
        working = any(handle.run_dir for handle in self.actors)
        return working or (not self.stops() and self.trials.is_open(self.group))

    def _look_around(self) -> None:
        """Once a second: on disk, and at the cluster."""
        if time.monotonic() - self.polled >= 1.0:
            self.polled = time.monotonic()
            self.trials.poll_elsewhere()
            self.trials.watcher.tick()
            self._explain()

    def _spawn(self) -> None:
        """As many actors as there are slots and trials; the share of each stays what it was."""
        if self.grows and time.monotonic() - self.grown >= GROW_SECONDS:
            self.grown = time.monotonic()
            self.slots = self.slots._replace(
                wanted=max(self.slots.wanted, capacity(nodes(), self.slots))
            )
        if len(self.failed_starts) >= MOST_FAILED_STARTS:
            if not self.actors:
                raise UsageError(
                    f"no worker can start on the Ray cluster: {self.failed_starts[-1]}"
                )
            return
        busy = sum(handle.run_dir is not None for handle in self.actors)
        needed = busy + self.trials.startable(self.group)
        while not self.stops() and len(self.actors) < min(self.slots.wanted, needed):
            actor = self.actor_class.remote()
            self.actors.append(_ActorHandle(actor, actor.arrive.remote(self.example)))

    def _receive(self) -> None:
        """Hear at most a second for answers."""
        ray = library()

        calls = {handle.call: handle for handle in self.actors if handle.call is not None}
        if not calls:
            time.sleep(1.0)
            return
        answered, _ = ray.wait(list(calls), timeout=1.0)
        for call in answered:
            handle = calls[call]
            try:
                answer = ray.get(call)
            except ray.exceptions.RayError as error:
                self._on_death(handle, error)
                continue
            handle.call = None
            if handle.run_dir is not None:
                run_dir, handle.run_dir = handle.run_dir, None
                self.trials.answered(run_dir, answer)
            elif answer["problem"]:
                self._refuse(handle, answer["problem"])
            else:
                handle.place, self.failed_starts = answer, []

    def _assign(self) -> None:
        for handle in self.actors:
            if handle.place is None or handle.run_dir is not None or self.stops():
                continue
            handle.run_dir = self.trials.take(self.group)
            if handle.run_dir is not None:
                handle.call = handle.actor.run_one.remote(str(handle.run_dir))
                self.trials.watcher.on_start(handle.run_dir)

    def _forward_stop(self) -> None:
        """Ctrl-C once: every actor checkpoints; twice: it is killed."""
        ray = library()

        stops = min(self.stops(), 2)
        if stops == self.forwarded:
            return
        self.forwarded = stops
        for handle in self.actors:
            if stops == 1:
                handle.actor.stop.remote()
            else:
                ray.kill(handle.actor)

    def _on_death(self, handle: _ActorHandle, error: Exception) -> None:
        ray = library()

        how = _how(handle, error)
        self.actors.remove(handle)
        ray.kill(
            handle.actor
        )  # one that is only out of reach must not go on beside its replacement
        if handle.run_dir is not None:
            node_lost = _NODE_DEATH in str(error)
            unreachable = isinstance(error, ray.exceptions.ActorUnavailableError)
            self.trials.died(
                handle.run_dir,
                how,
                stopping=bool(self.stops()),
                count_death=not (node_lost or unreachable),
            )
        elif handle.place is None and not self.stops():
            self._refuse(None, how)

    def _refuse(self, handle: _ActorHandle | None, why: str) -> None:
        """A worker that did not get to work; after several in a row no more are tried."""
        ray = library()

        if handle is not None:
            self.actors.remove(handle)
            ray.kill(handle.actor)
        self.failed_starts.append(why)

    def _explain(self) -> None:
        """Why nothing happens, once: others may hold what the cluster has."""
        ray = library()

        if (
            any(handle.place for handle in self.actors)
            or self.explained
            or time.monotonic() - self.began < PATIENCE_SECONDS
        ):
            return
        self.explained = True
        free = ray.available_resources()
        need = f"{self.slots.cpus:g} CPU" + (
            f" and {self.slots.gpus:g} GPU" if self.slots.gpus else ""
        )
        has = f"{free.get('CPU', 0):g} CPU and {free.get('GPU', 0):g} GPU"
        say(
            f"no worker has started yet: each needs {need}, the Ray cluster has {has} free; "
            "waiting"
        )


def _how(handle: _ActorHandle, error: Exception) -> str:
    """Ray's report of a death in one line."""
    report = str(error)
    place = f" on {handle.place['host']} (process {handle.place['pid']})" if handle.place else ""
    if isinstance(error, library().exceptions.OutOfMemoryError):
        used = re.search(r"[\d.]+GB used / [\d.]+GB limit", report)
        memory = f" ({used[0]})" if used else ""
        return (
            f"its worker process{place} was ended by Ray, as its node ran low on memory{memory}; "
            "try fewer --workers"
        )
    if _NODE_DEATH in report:
        return f"its worker process{place} ended with its node"
    if "process has died" in report or "process is dead" in report:
        return f"its worker process{place} ended, as after SIGKILL or a crash"
    lines = [line.strip() for line in report.splitlines() if line.strip()]
    return f"its worker process{place} is lost: {lines[-1] if lines else type(error).__name__}"
