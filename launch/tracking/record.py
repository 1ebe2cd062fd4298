"""What the tracking store is to hold of one run directory: a pure function of its files, so it can
be written again at any time.

Of an epoch that was journalled twice, as after a kill and a resumption, the last account counts,
as everywhere (`launch.runs.journal.curve`); a store that is filled again from the run directories
ends like one that was filled while they ran.
"""

import csv
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from launch.runs import rundir
from launch.runs.journal import curve
from launch.runs.rundir import RunDir
from launch.spec.spec import tag_name
from launch.spec.trial import flatten

CURSOR_METRIC = "epoch"
"""The metric whose latest value says how far a run is mirrored; it travels in one transaction with
the points it counts.
"""

FINAL_METRIC = "train_seconds"
"""The metric that is there once the final results are."""

SAMPLES_TAG = "system_samples"
"""The tag that says how many lines of system metrics are mirrored."""

_STATUS = {"finished": "FINISHED", "failed": "FAILED", "running": "RUNNING"}
_NOT_METRICS = {"event", "time"}
_MOST_TEXT = 5000


class Point(NamedTuple):
    """One value of one metric; time in ms since 1970, as journalled, so that a point sent twice is
    the same point.
    """

    key: str
    value: float
    time: int
    step: int


@dataclass(frozen=True)
class Record:
    """A run directory as it was when it was read."""

    run_dir: Path
    trial: dict[str, Any]
    uses: list[dict[str, Any]]
    events: list[dict[str, Any]]
    result: dict[str, Any] | None
    state: str

    @property
    def trial_id(self) -> str:
        return str(self.trial["id"])

    @property
    def journal(self) -> str:
        """When the journal began; with the trial's id it identifies a run, as --force begins
        another journal.
        """
        return str(self.events[0]["time"])

    @property
    def has_weights(self) -> bool:
        """Whether a checkpoint ought to be here: not of a measurement, nor of a committed run,
        which was trained elsewhere.
        """
        return self.state == "finished" and not self.trial.get("probe") and not self.is_committed

    @property
    def is_committed(self) -> bool:
        """Whether `launch/runs/archive.py` made the run directory of committed records."""
        return RunDir(self.run_dir).has(rundir.ORIGIN)

    @property
    def start(self) -> int:
        return _ms(self.events[0])

    @property
    def end(self) -> int:
        return _ms(self.events[-1])

    @property
    def name(self) -> str:
        """`table3 · ResNet-18 · + RM (ours) · seed 0`, after the first spec that uses the
        trial.
        """
        return str(self.uses[0]["label"]) if self.uses else self.trial_id

    @property
    def status(self) -> str:
        """MLflow's word: what is neither finished, failed nor running was killed, whoever killed
        it.
        """
        return _STATUS.get(self.state, "KILLED")

    @cached_property
    def params(self) -> list[tuple[str, str]]:
        """The resolved values under dotted keys, sorted."""
        values = {key: value for key, value in self.trial.items() if key not in ("id", "numerics")}
        return [
            (key, v if isinstance(v, str) else json.dumps(v)) for key, v in sorted(flatten(values))
        ]

    @cached_property
    def tags(self) -> dict[str, str]:
        """Identity, every spec that uses the run, where it ran, and why it failed."""
        tags = {
            "trial_id": self.trial_id,
            "journal": self.journal,
            "seed": str(self.trial["seed"]),
        }
        tags |= {"run_dir": str(self.run_dir), "mlflow.user": "recursivemix"} | _provenance(
            self.run_dir
        )
        if parents := RunDir(self.run_dir).parents:
            tags["parent"] = " ".join(parent.name for parent in parents)
        if self.is_committed:
            tags["origin"] = "reproduced"
            tags["numerics"] = str(self.trial.get("numerics"))
        rows: dict[str, list[str]] = {}
        for use in self.uses:
            profile = f".{use['profile']}" if use.get("profile") else ""
            name = tag_name(f"{use['spec']}{profile}")
            rows.setdefault(f"spec.{name}", []).append(str(use["row"]))
            if "sample" in use:  # of a search: its state as of the last use
                known = {key: use[key] for key in ("sample", "stopped") if key in use}
                tags[f"search.{name}"] = json.dumps(known)
        tags |= {key: " | ".join(dict.fromkeys(labels)) for key, labels in rows.items()}
        if self.status == "FAILED":
            tags["error"] = str(self.events[-1].get("error", "unknown"))
        return {key: value[:_MOST_TEXT] for key, value in tags.items()}

    @cached_property
    def curve(self) -> dict[int, dict[str, Any]]:
        """The last account of each epoch, or of each point of a probe, in order."""
        return curve(self.events)

    @property
    def was_resumed(self) -> bool:
        """Whether some of the curve may have been journalled more than once."""
        return sum(event["event"] in ("started", "resumed") for event in self.events) > 1

    def time_of(self, number: int) -> int | None:
        """When the last account of an epoch was journalled, as its points say; None without."""
        return _ms(self.curve[number]) if number in self.curve else None

    def points(self, after: int) -> Iterator[list[Point]]:
        """The points of each epoch later than `after`, epoch by epoch, the cursor among them.

        Every number that an epoch holds is mirrored under its own name, whatever the task.
        """
        for number, event in self.curve.items():
            if number > after:
                time = _ms(event)
                numbers = {CURSOR_METRIC: number, **_numbers(event)}
                yield [Point(key, float(numbers[key]), time, number) for key in numbers]

    def samples(self, after: int) -> Iterator[list[Point]]:
        """The system metrics of each line later than `after`, under the names that MLflow's page
        of them expects.
        """
        try:
            text = (self.run_dir / rundir.SYSTEM).read_text(encoding="utf-8")
        except OSError:
            return
        for number, line in enumerate(text.split("\n")[after:-1], after + 1):
            try:
                sample = json.loads(line)
            except ValueError:
                continue  # cut short by a kill
            time = _ms(sample)
            yield [
                Point(f"system/{key}", float(sample[key]), time, number)
                for key in sample
                if key != "time"
            ]

    def finals(self) -> list[Point]:
        """Best, last and median, from result.json, which is what finished means; none before."""
        if self.result is None:
            return []
        last = max(self.curve, default=0)
        time = _ms(self.curve[last]) if last else self.start
        named = {**self.result["metrics"], FINAL_METRIC: self.result["train_seconds"]}
        if "parameters" in self.result:  # a measurement has trained no network
            named["parameters"] = self.result["parameters"]
        return [Point(key, float(value), time, last) for key, value in named.items()]

    def write_artifacts(self, folder: Path) -> None:
        """Into an empty folder: trial.json, provenance.json and the learning curve, curve.csv, one
        line an epoch.

        And the files that a measurement kept.
        """
        for name in (rundir.TRIAL, rundir.PROVENANCE):
            if (self.run_dir / name).exists():
                shutil.copyfile(self.run_dir / name, folder / name)
        for kept in sorted(
            (self.run_dir / rundir.ARTIFACTS).glob("*")
        ):  # pictures of a measurement
            shutil.copyfile(kept, folder / kept.name)
        columns = list(
            dict.fromkeys(
                key for event in self.curve.values() for key in event if key not in _NOT_METRICS
            )
        )
        with (folder / "curve.csv").open("w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
            table.writeheader()
            table.writerows(self.curve.values())


def read(run_dir: Path) -> Record | None:
    """The record of a run directory; None where nothing has happened yet, or its trial.json cannot
    be read.
    """
    here = RunDir(run_dir)
    state = here.state()  # before the journal: what the state speaks of is then in it
    events, _ = here.events()
    try:
        trial = here.trial
    except (OSError, ValueError):
        return None
    if not events or "id" not in trial:
        return None
    result = here.result if state == "finished" else None
    return Record(run_dir, trial, here.uses, events, result, state)


def batches(
    groups: Iterator[list[Point]], first_room: int, room: int
) -> Iterator[Sequence[Point]]:
    """Join groups to as few batches of at most `room` points as keep every group whole; the first
    has `first_room`.
    """
    batch: list[Point] = []
    for group in groups:
        if batch and len(batch) + len(group) > first_room:
            yield batch
            batch, first_room = [], room
        batch += group
    if batch:
        yield batch


def _ms(event: dict[str, Any]) -> int:
    return int(event["time"] * 1000)


def _numbers(event: dict[str, Any]) -> dict[str, float]:
    return {
        key: value
        for key, value in event.items()
        if key not in _NOT_METRICS and isinstance(value, (int, float))
    }


def _provenance(run_dir: Path) -> dict[str, str]:
    """Of the last attempt: host, device, versions, commit (marked where the working tree differed
    from it).
    """
    attempts = RunDir(run_dir).provenance
    if not attempts:
        return {}
    attempt = attempts[-1]
    commit = attempt["git_commit"]
    commit = f"{commit}{'+changes' if attempt['git_diff'] else ''}" if commit else "unknown"
    versions = ", ".join(
        f"{name} {version}" for name, version in attempt.get("packages", {}).items()
    )
    return {
        "host": attempt["host"],
        "device": attempt["device"],
        "versions": versions,
        "git_commit": commit,
    }
