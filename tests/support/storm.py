"""SIGKILL for workers and launchers at random moments, and now and then a power cut: what comes
out must be what undisturbed runs give, bit for bit, each trial finished once, each point once.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from launch.runs.rundir import RunDir
from launch.spec.load import load_spec
from tests.support import commands, disks, inprocess
from tests.support.mutations import Campaign
from tests.support.specs import SPEC, write_spec
from tests.support.trials import PATIENCE, deterministic

MOST_RESTARTS = 5
"""Of the command, once nothing is killed any more: a trial may have lost three workers before
their first step, which fails it.
"""


class Storm:
    """One spec of four trials, parents included, in one results folder."""

    def __init__(self, spec: Path, results: Path, draw: random.Random, *backend: str) -> None:
        self.spec, self.results, self.draw, self.backend = spec, results, draw, backend
        read = load_spec(spec)
        parents = [parent.trial for cell in read.cells for parent in cell.parents]
        self.trials = [trial.id for trial in (*parents, *read.trials)]
        self.log = spec.parent / "launcher.txt"
        self.kills = self.cuts = 0
        self.launcher: subprocess.Popen[str] | None = None

    def start(self) -> None:
        with self.log.open("a") as file:
            self.launcher = commands.command(
                self.spec,
                *("--workers", "2", *self.backend),
                stdout=subprocess.DEVNULL,
                stderr=file,
                environment={
                    "RM_RESULTS_DIR": str(self.results),
                    "RM_CHECKPOINT_SECONDS": "0",
                    "RM_TRACKING": "on",
                },
            )

    def run(self, kills: int, cuts: int, disk: disks.Ext4 | None) -> None:
        """Kill so often, or until all have finished; then let them end."""
        at = set(self.draw.sample(range(1, kills), cuts)) if disk and cuts else set()
        self.start()
        while self.kills < kills and self._wait_for_progress():
            time.sleep(self.draw.uniform(0, 0.3))
            if disk and self.kills in at:
                at.discard(self.kills)
                disk.cut_power()
                assert self.launcher
                for pid in self._everyone():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                self.launcher.wait()
                self.kills, self.cuts = self.kills + 1, self.cuts + 1
                disk.again()
                self.start()
            else:
                self._kill(self._victims())
        for _ in range(MOST_RESTARTS):
            assert self.launcher
            if self.launcher.wait(PATIENCE) == 0:
                return
            self.start()

    def _wait_for_progress(self) -> bool:
        """Until a trial has a new checkpoint, mostly; false where all has ended."""
        before = self._positions()
        moment = self.draw.random() < 0.1 and time.monotonic() + self.draw.uniform(0, 3)
        deadline = time.monotonic() + PATIENCE
        while self._positions() == before and not (moment and time.monotonic() > moment):
            assert self.launcher
            assert time.monotonic() < deadline, "nothing goes on"
            if self.launcher.poll() is not None:
                if all(RunDir(self.results / "runs" / name).is_finished() for name in self.trials):
                    return False
                self.start()
            time.sleep(0.02)
        return True

    def _positions(self) -> list[Any]:
        runs = self.results / "runs"
        return [
            (RunDir(runs / name).position(), (runs / name / "result.json").exists())
            for name in self.trials
        ]

    def _victims(self) -> list[int]:
        workers = list(commands.running_pids(self.results).values())
        assert self.launcher
        luck = self.draw.random()
        if luck > 0.8 and (tasks := self._slurm_tasks()):
            return [self.draw.choice(tasks)]
        if luck < 0.15 or not workers:
            return [self.launcher.pid]
        return self._everyone() if luck < 0.2 else [self.draw.choice(workers)]

    def _slurm_tasks(self) -> list[int]:
        """The processes that SLURM started on its nodes; none under another backend."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                ours = any(word.startswith(os.fsencode(self.results)) for word in words)
                if ours and b"launch.backends.slurm.task" in words and b"python" in words[0]:
                    found.append(int(entry.name))
        return found

    def _everyone(self) -> list[int]:
        """Launcher, workers and whatever these have started: all know the results folder."""
        mark, found = f"RM_RESULTS_DIR={self.results}".encode(), []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
        return found

    def _kill(self, pids: list[int]) -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.kills += 1
        assert self.launcher
        if self.launcher.pid in pids:
            self.launcher.wait()
            self.start()

    def faults(self, reference: dict[str, Any]) -> Iterator[str]:
        """What was lost, doubled, stuck or said badly."""
        for name in self.trials:
            run_dir = self.results / "runs" / name
            if not RunDir(run_dir).is_finished():
                yield f"{name} is not finished: {RunDir(run_dir).state()}"
                continue
            if deterministic(run_dir) != reference[name]:
                yield f"{name} has other numbers than an undisturbed run"
            ends = [e["event"] for e in RunDir(run_dir).events()[0]].count("finished")
            if ends > 1:
                yield f"{name} finished {ends} times"
            metrics = json.loads((run_dir / "result.json").read_text())["metrics"]
            if not metrics:
                yield f"{name} has no metrics"
        if "Traceback" in (text := self.log.read_text()):
            yield f"a launcher ended in a traceback: {text[-2000:]}"
        yield from self._points()

    def _points(self) -> Iterator[str]:
        try:
            records = commands.mlflow_records(self.results)
        except AssertionError as error:
            yield str(error)
            return
        if set(records) != set(self.trials):
            yield f"MLflow has {sorted(records)}"
        for name, (_, _, points, *_) in records.items():
            for metric, history in points.items():
                steps = [step for step, _, _ in history]
                if len(steps) != len(set(steps)):
                    yield f"MLflow has points of {name}'s {metric} twice"


def run(
    folder: Path,
    kills: int,
    cuts: int,
    seed: int,
    *backend: str,
    epochs: int | None = None,
    text: str = SPEC,
) -> Campaign:
    """A storm of so many kills, in `cuts` of which the disk loses its power (needs root)."""
    length = epochs or 8 + kills
    spec = write_spec(folder, text, **{"epochs: 2": f"epochs: {length}"})
    inprocess.train(spec, folder / "undisturbed")
    runs = folder / "undisturbed" / "runs"
    reference = {path.name: deterministic(path) for path in runs.iterdir()}
    with contextlib.ExitStack() as stack:
        disk = stack.enter_context(disks.ext4(folder)) if cuts and disks.can_mount() else None
        results = (disk.place if disk else folder) / "results"
        storm = Storm(spec, results, random.Random(seed), *backend)
        try:
            storm.run(kills, cuts, disk)
            badly = list(storm.faults(reference))
            if disk and storm.cuts < cuts:
                badly.append(f"the power was cut {storm.cuts} times, not {cuts}")
        finally:
            if storm.launcher and storm.launcher.poll() is None:
                storm.launcher.kill()
                storm.launcher.wait()
    return Campaign(storm.kills, 0 if badly else storm.kills, badly)
