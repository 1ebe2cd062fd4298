"""What a search has decided, on disk: `results/searches/<spec>-<digest>/decisions.jsonl`, one
event a line.

    drawn      a sample's point; random ones are known beforehand, others are not
    finished   its last epoch, validation metric and loss
    stopped    the scheduler ended it at an epoch, with the metric it had there
    failed     it raised, with the error
    winner     which sample it was, and of how many

The samples themselves are ordinary run directories. Nothing that Tune keeps is needed to go on.
"""

import fcntl
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from launch.paths import results_dir, runs_dir
from launch.plan import Planned
from launch.runs.create import prepare
from launch.runs.rundir import RunDir
from launch.spec.load import WINNER, Cell, Spec, with_winner
from launch.spec.search import Sample, SampleResult, winner


class Busy(Exception):
    """Another launcher carries this search out."""


class SearchState:
    """The samples of a spec's search and what has become of them."""

    def __init__(self, spec: Spec) -> None:
        if spec.search is None:
            raise ValueError(f"{spec.path} has no search")
        self.spec, self.search = spec, spec.search
        self.folder = results_dir() / "searches" / f"{spec.name}-{spec.search.digest}"
        self.file = self.folder / "decisions.jsonl"
        self.samples: dict[int, Sample] = {sample.number: sample for sample in spec.search.drawn()}
        self.begun: set[int] = set()
        self.decided: dict[int, dict[str, Any]] = {}
        for event in self._events():
            self._take(event)

    def _events(self) -> list[dict[str, Any]]:
        """The whole lines; one torn by a crash is left out."""
        try:
            lines = self.file.read_bytes().split(b"\n")[:-1]
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in lines if line]

    def _take(self, event: Mapping[str, Any]) -> None:
        number = event["sample"]
        if number > self.search.samples:
            return  # of a longer search than is asked for now
        if event["event"] == "drawn":
            self.begun.add(number)
            self.samples.setdefault(number, self.search.sample(number, event["point"]))
        elif event["event"] != "winner":
            self.decided[number] = dict(event)

    def _append(self, event: str, number: int, **fields: Any) -> None:
        """Write one event and have it on disk before anything follows from it; what is decided
        stays so.
        """
        if number in self.decided and event != WINNER:
            return
        line = {"event": event, "sample": number, "time": round(time.time(), 3), **fields}
        with self.file.open("ab+") as file:
            end = file.seek(0, os.SEEK_END)
            if end and file.seek(end - 1) is not None and file.read(1) != b"\n":
                data = self.file.read_bytes()
                file.truncate(data.rfind(b"\n") + 1)
            file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self._take(line)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """One launcher at a time; Busy where another one is at it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Busy(
                    f"{self.spec.path}: another launcher carries this search out ({self.folder})"
                ) from None
            yield

    def run_dir(self, number: int) -> Path:
        return runs_dir() / self.samples[number].trial.id

    def begin(self, number: int, point: Mapping[str, Any] | None = None) -> Sample:
        """Draw a sample (or take one that is known), with its run directory made."""
        if number not in self.begun:
            point = self.samples[number].point if point is None else point
            self._append(
                "drawn", number, point=point, trial=self.search.sample(number, point).trial.id
            )
        sample = self.samples[number]
        prepare([self._planned(number)], runs_dir())
        RunDir(self.run_dir(number)).clear_cancel()
        return sample

    def finished(self, number: int, epoch: int, value: float, loss: float | None) -> None:
        self._append("finished", number, epoch=epoch, value=value, loss=loss)

    def failed(self, number: int, error: str) -> None:
        self._append("failed", number, error=error)

    def stopped(self, number: int, epoch: int, value: float, loss: float | None) -> None:
        """The scheduler's word: journalled here, then in the sample's run directory, as a use
        under its new label.
        """
        self._append(
            "stopped", number, epoch=epoch, value=value, loss=loss, by=self.search.scheduler.name
        )
        prepare([self._planned(number)], runs_dir())

    def retry(self) -> None:
        """Samples that failed are undecided again, while there is no winner yet."""
        if self.winner is None:
            self.decided = {
                n: event for n, event in self.decided.items() if event["event"] != "failed"
            }

    def undecided(self) -> list[int]:
        """Numbers of samples that have begun and were not decided."""
        return sorted(self.begun - set(self.decided))

    def history(self, number: int) -> list[tuple[int, float]]:
        """(epoch, metric) of a sample as far as its journal goes, without what came after the
        scheduler's word.
        """
        events, _ = RunDir(self.run_dir(number)).readable_events()
        values = {
            event["epoch"]: value
            for event in events
            if event["event"] == "epoch" and (value := self.search.value_of(event)) is not None
        }
        last = self.decided.get(number, {}).get("epoch")
        return [
            (epoch, values[epoch]) for epoch in sorted(values) if last is None or epoch <= last
        ]

    @property
    def tried(self) -> tuple[SampleResult, ...]:
        found = []
        for number, sample in sorted(self.samples.items()):
            event = self.decided.get(number, {})
            state = event.get("event", "undecided")
            found.append(
                SampleResult(
                    sample, state, event.get("epoch", 0), event.get("value"), event.get("loss")
                )
            )
        return tuple(found)

    @property
    def winner(self) -> SampleResult | None:
        return winner(self.tried, self.search.samples, self.search.objective)

    def record_winner(self) -> SampleResult | None:
        """The winner, journalled once."""
        best = self.winner
        if best is not None:
            entry = {"event": WINNER, "sample": best.sample.number, "of": self.search.samples}
            if not any(entry.items() <= event.items() for event in self._events()):
                self._append(
                    WINNER, best.sample.number, of=self.search.samples, point=best.sample.point
                )
        return best

    def _cell(self, number: int) -> Cell:
        sample, event = self.samples[number], self.decided.get(number, {})
        stopped = event.get("event") == "stopped"
        label = (
            f"{sample.label}; stopped at epoch {event['epoch']} by {event['by']}"
            if stopped
            else sample.label
        )
        kept = {"sample": number} | ({"stopped": event["epoch"]} if stopped else {})
        return Cell((label,), None, (sample.trial,), {}, stopped=stopped, sample=kept)

    def _planned(self, number: int) -> Planned:
        cell = self._cell(number)
        return Planned(self.spec, cell, cell.trials[0], RunDir(self.run_dir(number)).state())

    def label(self, number: int) -> str:
        """Its name for people, as progress shows it."""
        return self._planned(number).label

    def remaining(self) -> Spec:
        """The spec with the winner's row, once there is one: what runs after the search."""
        best = self.winner
        return self.spec if best is None else with_winner(self.spec, best)

    def cells(self) -> tuple[Cell, ...]:
        """A cell for each sample that is known."""
        return tuple(self._cell(number) for number in sorted(self.samples))


def whole(spec: Spec) -> Spec:
    """A spec that searches with its samples and, once there is one, its winner; any other one as
    it is.
    """
    if spec.search is None:
        return spec
    state = SearchState(spec)
    after = state.remaining()
    return replace(after, cells=(*after.cells, *state.cells()))


def samples_of(specs: Iterable[Spec]) -> set[str]:
    """Identities of the trials that are samples of a search: only their search may run them, as it
    may also stop them.
    """
    states = (SearchState(spec) for spec in specs if spec.search)
    return {sample.trial.id for state in states for sample in state.samples.values()}


def set_aside(spec: Spec) -> None:
    """--force: what a search decided moves to results/replaced."""
    if spec.search is not None and (state := SearchState(spec)).folder.exists():
        target = (
            results_dir() / "replaced" / f"{state.folder.name}-{time.strftime('%Y%m%d-%H%M%S')}"
        )
        target.parent.mkdir(parents=True, exist_ok=True)
        with state.lock():
            state.folder.rename(target)
