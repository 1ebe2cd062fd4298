"""Carries out the searches of specs, before what they found is run like any other trials."""

import importlib.util
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from launch import backends
from launch.backends.base import Backend, Limits
from launch.backends.queue import on_signals
from launch.backends.ray.cluster import divide, joined, nodes
from launch.console import say
from launch.errors import UsageError
from launch.paths import ROOT
from launch.search.state import Busy, SearchState
from launch.spec.load import Spec
from launch.spec.search import describe

if TYPE_CHECKING:
    from launch.progress import ProgressWatcher

Mirroring = Callable[["ProgressWatcher"], AbstractContextManager[Any]]


class Searched(NamedTuple):
    """The specs with their winners, and the exit status so far: 1 where a search found none, 130
    where one was stopped.
    """

    specs: list[Spec]
    status: int


def announce(specs: Sequence[Spec]) -> None:
    """What a plan cannot list: samples that are drawn in the light of earlier ones."""
    for spec in specs:
        if spec.search and spec.search.algorithm != "random":
            left = spec.search.samples - sum(
                cell.labels[0].startswith("sample ") for cell in spec.cells
            )
            print(f"{spec.name}: {left} samples that {spec.search.algorithm} draws as it learns")


def check(specs: Sequence[Spec], backend: Backend) -> None:
    """UsageError where something that a search needs is not there, before anything is run."""
    searching = [spec for spec in specs if spec.search]
    if searching and not backend.can_search:
        if type(backend).can_search:
            raise UsageError(
                "--on-slurm does not carry searches out: a search watches its trials from where "
                "it is typed; start Ray in an allocation and give its --address"
            )
        able = [name for name in backends.NAMES if backends.get(name).can_search]
        raise UsageError(
            f"{searching[0].path} searches, which --backend {backend.name} cannot: a search "
            f"watches its trials as they train; valid: {', '.join(able)}"
        )
    for spec in searching:
        needed = [
            "ray",
            *(["optuna"] if spec.search and spec.search.algorithm == "optuna" else []),
        ]
        for package in needed:
            if importlib.util.find_spec(package) is None:
                instead = ", or write algorithm: random" if package == "optuna" else ""
                raise UsageError(
                    f"{spec.path}: this search needs the package {package}, which is not "
                    "installed; "
                    "install it (pip install "
                    f"{'ray[tune]' if package == 'ray' else package}){instead}"
                )


def carry_out(
    specs: Sequence[Spec], mirroring: Mirroring, backend: Backend, limits: Limits
) -> Searched:
    """Carry out each search that has no winner yet, on the Ray cluster of the backend's address
    (none: a private one is started on this machine, and ends with the search).
    """
    found, status = [], 0
    for spec in specs:
        if spec.search is None:
            found.append(spec)
            continue
        if not _search(SearchState(spec), mirroring, backend.address, limits):
            return Searched([], 130)
        state = SearchState(spec)
        best = state.winner
        if best is None:
            left = sum(one.state == "undecided" for one in state.tried)
            why = f"{left} samples were cancelled" if left else "no sample finished"
            say(
                f"{spec.name}: {why}, so there is no winner yet; the same command tries them again"
            )
            status = 1
        else:
            say(
                f"{spec.name}: the winner is sample {best.sample.number} of "
                f"{state.search.samples}, {describe(best.sample.point)}: "
                f"{state.search.metric} {best.value:.4g} on held-out images"
            )
        found.append(state.remaining())
    return Searched(found, status)


def _search(state: SearchState, mirroring: Mirroring, address: str | None, limits: Limits) -> bool:
    """False where it was stopped."""
    if state.record_winner() is not None:
        return True
    try:
        with state.lock():
            state = SearchState(state.spec)  # what another launcher decided while this one waited
            return state.record_winner() is not None or _run(state, mirroring, address, limits)
    except Busy as error:
        raise UsageError(str(error)) from None


def _run(
    state: SearchState,
    mirroring: Mirroring,
    address: str | None,
    limits: Limits,
) -> bool:
    began, search = time.monotonic(), state.search
    state.retry()
    say(
        f"searching: {search.samples - len(state.decided)} of {search.samples} samples, on "
        f"{search.held_out} held-out images"
    )
    stop_file = state.folder / "stop"
    stop_file.unlink(missing_ok=True)

    def stop() -> None:
        """Once: all checkpoint and stop. Twice: end at once."""
        if stop_file.exists():
            raise KeyboardInterrupt
        stop_file.touch()

    from launch.search.progress import (
        SampleWatcher,  # loads rich, which a command that only looks has no use for
    )

    watcher = SampleWatcher(state)
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    # Ray sets a SIGTERM handler of its own as it starts: ours goes over it again.
    ray = on_signals(stop), joined(address, {"PYTHONPATH": path}), on_signals(stop)
    with mirroring(watcher), watcher, suppress(KeyboardInterrupt), ray[0], ray[1], ray[2]:
        from launch.search import tune

        tune.search(state, watcher, divide(nodes(), limits), stop_file)
    counts = Counter(one.state for one in state.tried if one.state != "undecided")
    words = ", ".join(f"{n} {word}" for word, n in sorted(counts.items())) or "nothing decided"
    say(f"{words} in {time.monotonic() - began:.1f} s")
    state.record_winner()
    if stop_file.exists():
        stop_file.unlink()
        say("stopped; nothing is lost: the same command resumes from here")
        return False
    return True
