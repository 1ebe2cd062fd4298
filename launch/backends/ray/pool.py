"""Warm Ray actors, fed with one run directory after another; those that die, or whose node does,
are replaced.
"""

import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from launch.backends import Watcher
from launch.backends.queue import Trials
from launch.backends.ray.actor import Worker
from launch.backends.ray.cluster import Slots, capacity, environment, library, nodes
from launch.console import say
from launch.errors import UsageError
from launch.runs.job import Outcome

MOST_FAILED_STARTS = 3
PATIENCE_SECONDS = 60.0
GROW_SECONDS = 5.0
HEAD_SECONDS = 20.0
"""How long the head of the cluster may be out of reach; after 60 s Ray ends this process, without
a word to people.
"""
_NODE_DEATH = "its node has died"
"""What Ray's report of an actor's death says where the node went with it."""


class _Hand:
    """One actor: on its way (no `place` yet), idle, or at work on `run_dir`."""

    def __init__(self, actor: Any, arriving: Any) -> None:
        self.actor, self.call = actor, arriving
        self.place: dict[str, Any] | None = None
        self.run_dir: Path | None = None


class Pool:
    """At most `slots.wanted` actors; with `grows`, more where nodes join the cluster."""

    def __init__(
        self,
        run_dirs: Sequence[Path],
        watcher: Watcher,
        slots: Slots,
        stops: Callable[[], int],
        *,
        grows: bool,
    ) -> None:
        ray = library()

        self.trials, self.slots, self.stops, self.grows = (
            Trials(run_dirs, watcher),
            slots,
            stops,
            grows,
        )
        self.hands: list[_Hand] = []
        self.example = str(run_dirs[0])
        self.asked = 0
        self.failed_starts: list[str] = []
        self.began = self.grown = self.looked = self.heard = time.monotonic()
        self.told = False
        self.head = ray.get_runtime_context().gcs_address
        self.actor_class = ray.remote(Worker).options(
            num_cpus=slots.cpus,
            num_gpus=slots.gpus,
            max_concurrency=2,
            max_restarts=0,
            scheduling_strategy="SPREAD",
            runtime_env={"env_vars": environment(slots)},
        )

    def run(self) -> dict[Path, Outcome]:
        """Until every trial has ended, or has stopped after Ctrl-C."""
        ray = library()

        try:
            while self._unfinished():
                if not self._head_answers():
                    self._abandon()
                    break
                self._hire()
                self._listen()
                self._obey()
                self._give()
                self._look_around()
        finally:
            for hand in self.hands:
                ray.kill(hand.actor)
        return self.trials.close()

    def _head_answers(self) -> bool:
        """Whether the cluster's head can be reached; asked before anything that would wait for it
        in vain.
        """
        if time.monotonic() - self.heard < 1.0:
            return True
        host, _, port = self.head.rpartition(":")
        began = time.monotonic()
        while time.monotonic() - began < HEAD_SECONDS:
            try:
                socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            except OSError:
                time.sleep(1.0)
            else:
                self.heard = time.monotonic()
                return True
        return False

    def _abandon(self) -> None:
        """Without its head a cluster can neither be asked nor told anything; its workers end by
        themselves, as Ray sees to it.
        """
        say(
            f"the head of the Ray cluster at {self.head} has not answered for {HEAD_SECONDS:.0f} "
            "s; its trials end with it, "
            "at their last checkpoints. Once a cluster runs again, the same command goes on"
        )
        for hand in self.hands:
            if hand.run_dir is not None:
                self.trials.died(
                    hand.run_dir, "the head of the Ray cluster is gone", stopping=True
                )
        self.hands = []

    def _unfinished(self) -> bool:
        return any(hand.run_dir for hand in self.hands) or (not self.stops() and self.trials.left)

    def _look_around(self) -> None:
        """Once a second: on disk, and at the cluster."""
        if time.monotonic() - self.looked >= 1.0:
            self.looked = time.monotonic()
            self.trials.look_elsewhere()
            self.trials.watcher.tick()
            self._explain()

    def _hire(self) -> None:
        """As many actors as there are slots and trials; the share of each stays what it was."""
        if self.grows and time.monotonic() - self.grown >= GROW_SECONDS:
            self.grown = time.monotonic()
            self.slots = self.slots._replace(
                wanted=max(self.slots.wanted, capacity(nodes(), self.slots))
            )
        if len(self.failed_starts) >= MOST_FAILED_STARTS:
            if not self.hands:
                raise UsageError(
                    f"no worker can start on the Ray cluster: {self.failed_starts[-1]}"
                )
            return
        busy = sum(hand.run_dir is not None for hand in self.hands)
        needed = busy + len(self.trials.queue) + len(self.trials.elsewhere)
        while not self.stops() and len(self.hands) < min(self.slots.wanted, needed):
            actor = self.actor_class.remote()
            self.hands.append(_Hand(actor, actor.arrive.remote(self.example)))

    def _listen(self) -> None:
        """Hear at most a second for answers."""
        ray = library()

        calls = {hand.call: hand for hand in self.hands if hand.call is not None}
        if not calls:
            time.sleep(1.0)
            return
        answered, _ = ray.wait(list(calls), timeout=1.0)
        for call in answered:
            hand = calls[call]
            try:
                answer = ray.get(call)
            except ray.exceptions.RayError as error:
                self._bury(hand, error)
                continue
            hand.call = None
            if hand.run_dir is not None:
                run_dir, hand.run_dir = hand.run_dir, None
                self.trials.answered(run_dir, answer)
            elif answer["problem"]:
                self._refuse(hand, answer["problem"])
            else:
                hand.place, self.failed_starts = answer, []

    def _give(self) -> None:
        for hand in self.hands:
            if hand.place and hand.run_dir is None and self.trials.queue and not self.stops():
                hand.run_dir = self.trials.queue.popleft()
                hand.call = hand.actor.run_one.remote(str(hand.run_dir))
                self.trials.watcher.on_start(hand.run_dir)

    def _obey(self) -> None:
        """Ctrl-C once: every actor checkpoints; twice: it is killed."""
        ray = library()

        stops = min(self.stops(), 2)
        if stops == self.asked:
            return
        self.asked = stops
        for hand in self.hands:
            if stops == 1:
                hand.actor.stop.remote()
            else:
                ray.kill(hand.actor)

    def _bury(self, hand: _Hand, error: Exception) -> None:
        ray = library()

        how = _how(hand, error)
        self.hands.remove(hand)
        ray.kill(hand.actor)  # one that is only out of reach must not go on beside its replacement
        if hand.run_dir is not None:
            innocent = isinstance(
                error, ray.exceptions.ActorUnavailableError
            ) or _NODE_DEATH in str(error)
            self.trials.died(hand.run_dir, how, stopping=bool(self.stops()), blame=not innocent)
        elif hand.place is None and not self.stops():
            self._refuse(None, how)

    def _refuse(self, hand: _Hand | None, why: str) -> None:
        """A worker that did not get to work; after several in a row no more are tried."""
        ray = library()

        if hand is not None:
            self.hands.remove(hand)
            ray.kill(hand.actor)
        self.failed_starts.append(why)

    def _explain(self) -> None:
        """Why nothing happens, once: others may hold what the cluster has."""
        ray = library()

        if (
            any(hand.place for hand in self.hands)
            or self.told
            or time.monotonic() - self.began < PATIENCE_SECONDS
        ):
            return
        self.told = True
        free = ray.available_resources()
        need = f"{self.slots.cpus:g} CPU" + (
            f" and {self.slots.gpus:g} GPU" if self.slots.gpus else ""
        )
        has = f"{free.get('CPU', 0):g} CPU and {free.get('GPU', 0):g} GPU"
        say(
            f"no worker has started yet: each needs {need}, the Ray cluster has {has} free; "
            "waiting"
        )


def _how(hand: _Hand, error: Exception) -> str:
    """Ray's report of a death in one line."""
    said = str(error)
    place = f" on {hand.place['host']} (process {hand.place['pid']})" if hand.place else ""
    if _NODE_DEATH in said:
        return f"its worker process{place} ended with its node"
    if "process has died" in said or "process is dead" in said:
        return f"its worker process{place} ended, as after SIGKILL or a crash"
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return f"its worker process{place} is lost: {lines[-1] if lines else type(error).__name__}"
