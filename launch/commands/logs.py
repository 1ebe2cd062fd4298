"""`logs`: what one trial printed, and what its journal tells: epochs, interruptions, failures with
their tracebacks.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from launch import backends
from launch.commands import add_filters, load_specs
from launch.commands._targets import MOST_NAMED, find_run, is_spec
from launch.console import say, show
from launch.errors import UsageError
from launch.paths import results_dir, runs_dir
from launch.runs import journal, rundir
from launch.runs.contents import Damaged, why
from launch.runs.rundir import RunDir
from launch.runs.status import StatusReader, TrialStatus, read_snapshot
from launch.spec.filters import select

HELP = "print a trial's log and journal, with the tracebacks of its failures"
POLL_SECONDS = 0.5
LOOK_SECONDS = 3.0
"""How often -f asks whether the trial still runs: that question may go to a scheduler."""

_HIDDEN = ("event", "time", "epoch", "point", "lr", "images_per_second", "peak_memory_mib")
"""What a line of an epoch leaves out; every other number is shown, whatever the task."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "trial",
        metavar="TRIAL|SPEC.yaml",
        help="a trial's id, or how it begins; or a spec, of which --where and --seeds leave one",
    )
    parser.add_argument("-f", "--follow", action="store_true", help="go on until the trial ends")
    add_filters(parser)


def run(args: argparse.Namespace) -> int:
    run_dir = _of_spec(args) if is_spec(args.trial) else find_run(args.trial)
    if args.json and args.follow:
        raise UsageError("--json prints what is there now; it does not go with -f")
    if args.json:
        show(_to_json(run_dir))
        return 0
    say(_in_words(run_dir))
    try:
        _Printer(run_dir).print(args.follow)
    except KeyboardInterrupt:
        return 0
    if args.follow:
        say(_in_words(run_dir))
    return 0


def _of_spec(args: argparse.Namespace) -> Path:
    """The run directory of the one trial of a spec that is meant."""
    args.specs = [args.trial]
    labels = {
        trial.id: f"{cell.row} · seed {trial.seed}"
        for _, cell, trials in select(load_specs(args), args.where)
        for trial in trials
    }
    if len(labels) > 1:
        some = "; ".join(list(labels.values())[:MOST_NAMED])
        more = f" and {len(labels) - MOST_NAMED} more" if len(labels) > MOST_NAMED else ""
        raise UsageError(
            f"{len(labels)} trials of {args.trial} are meant: {some}{more}; --where and --seeds "
            "choose one"
        )
    (identity,) = labels
    run_dir = runs_dir() / identity
    if not run_dir.exists():
        raise UsageError(f"{labels[identity]} ({identity}) has not begun: it has no log yet")
    return run_dir


class _Printer:
    """Prints log.txt and the journal from where it was the last time."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.log = self.damage = ""
        self.log_bytes = self.journal_bytes = 0
        self.epochs = _epochs(run_dir)

    def print(self, follow: bool) -> None:
        ended, looked = not follow, -LOOK_SECONDS
        while True:
            self._print_new(whole_lines=not ended)
            if ended:
                break
            if time.monotonic() - looked >= LOOK_SECONDS:
                looked, ended = (
                    time.monotonic(),
                    status(self.run_dir).state not in ("running", "waiting"),
                )
            if not ended:
                time.sleep(POLL_SECONDS)
        if not self.log and not self.journal_bytes:
            for path in job_logs(self.run_dir):  # it never came as far as its own log
                print(f"{path}:\n{path.read_text(encoding='utf-8', errors='replace').rstrip()}")

    def _print_new(self, whole_lines: bool) -> None:
        text = self._new_text(whole_lines)
        self.log += text
        sys.stdout.write(text if text.endswith("\n") or not text else text + "\n")
        for event in self._new_events():
            if event["event"] != "checkpoint":
                print(self._line(event))
        sys.stdout.flush()

    def _new_events(self) -> list[dict[str, Any]]:
        """Without damaged lines; what is wrong with the first is said, once."""
        here = RunDir(self.run_dir)
        try:
            events, self.journal_bytes = here.events(self.journal_bytes)
        except (OSError, Damaged) as error:
            events, self.journal_bytes = here.readable_events(self.journal_bytes)
            if self.damage != str(error):
                self.damage = str(error)
                say(f"damaged: {why(error)}")
        return events

    def _new_text(self, whole_lines: bool) -> str:
        try:
            with RunDir(self.run_dir).file(rundir.LOG).open("rb") as file:
                file.seek(self.log_bytes)
                data = file.read()
        except OSError:  # it is not there yet, or cannot be read
            return ""
        if whole_lines:
            data = data[
                : data.rfind(b"\n") + 1
            ]  # a line that is being written comes the next time
        self.log_bytes += len(data)
        return data.decode("utf-8", "replace")

    def _line(self, event: dict[str, Any]) -> str:
        """One event in words; a traceback where the log has it not: a worker prints it too, unless
        it was killed.
        """
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event["time"]))
        kind = event["event"]
        number = journal.number_of(event)
        if number is not None:
            # A run directory may be followed before its trial.json is there.
            self.epochs = self.epochs or _epochs(self.run_dir)
            values = ", ".join(
                f"{name} {value:.4g}"
                for name, value in event.items()
                if name not in _HIDDEN and isinstance(value, (int, float))
            )
            where = f"epoch {number}/{self.epochs}" if self.epochs else f"point {number}"
            return f"{when} {where}: {values}"
        if kind == "failed":
            trace = (event.get("traceback") or "").strip()
            return f"{when} failed: {event.get('error', 'no reason given')}" + (
                f"\n{trace}" if trace and trace not in self.log else ""
            )
        # A probe has neither epochs nor steps; former ones said epoch 0.
        place = (
            f" in epoch {event['epoch']}, before step {event['step'] + 1}"
            if "step" in event and event.get("epoch")
            else ""
        )
        unread = event.get("damaged")
        note = f" ({', '.join(map(str, unread))} could not be read)" if unread else ""
        return f"{when} {kind}{place}{note}"


def status(run_dir: Path) -> TrialStatus:
    """How this one trial stands."""
    return StatusReader(run_dir.parent, backends.get).statuses({run_dir: _epochs(run_dir)})[
        run_dir
    ]


def _epochs(run_dir: Path) -> int:
    try:
        return RunDir(run_dir).epochs
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _in_words(run_dir: Path) -> str:
    now = status(run_dir)
    reached = f"epoch {now.epoch} of {_epochs(run_dir)}" if now.epoch else ""
    reached = f"{now.points} points measured" if now.points else reached
    said = [now.state, reached, f"job {now.job}" if now.job else "", now.where, now.note]
    return f"{run_dir.name}: {', '.join(filter(None, said))}"


def job_logs(run_dir: Path) -> list[Path]:
    """What its newest job printed: a scheduler's backend keeps it in results/<backend>/<job
    name>/<job id>_*.out.
    """
    job = read_snapshot(run_dir).job
    if job is None or "name" not in job:
        return []
    folder = results_dir() / str(job["backend"]) / str(job["name"])
    try:
        return sorted(path for path in folder.iterdir() if _is_output(path.name, str(job["id"])))
    except (OSError, ValueError):  # it is not there, or no name of a folder
        return []


def _is_output(name: str, job: str) -> bool:
    return name.startswith(f"{job}_") and name.endswith(".out")


def _to_json(run_dir: Path) -> str:
    try:
        log = RunDir(run_dir).file(rundir.LOG).read_text(encoding="utf-8", errors="replace")
    except OSError:
        log = ""
    damage = None
    try:
        events, _ = RunDir(run_dir).events()
    except (OSError, Damaged) as error:
        events, damage = RunDir(run_dir).readable_events()[0], why(error)
    found = {
        "id": run_dir.name,
        **status(run_dir)._asdict(),
        "log": log,
        "events": events,
        "damage": damage,
        "failures": [event for event in events if event["event"] == "failed"],
        "job_logs": [str(path) for path in job_logs(run_dir)],
    }
    return json.dumps(found, indent=1, ensure_ascii=False)
