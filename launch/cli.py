"""The commands people type: run (the default), plan, status, sync."""

import argparse
import functools
import importlib
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from launch import rundir
from launch.backends import Ended
from launch.catalog import CatalogError
from launch.paths import ROOT, results_dir, runs_dir, tracking_uri
from launch.plan import FilterError, Plan, make_plan, prepare
from launch.progress import ProgressWatcher
from launch.resolve import near
from launch.spec import Spec, SpecError, load_spec

COMMANDS = ("run", "plan", "status", "sync")
MIRROR_SECONDS = 5.0
_COLOURS = {
    "finished": "green",
    "failed": "red",
    "interrupted": "yellow",
    "running": "cyan",
    "waiting": "dim",
    "refused": "red",
}


class UsageError(Exception):
    """The command line asks for something that is not there; exit status 2."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0 all finished, 1 something failed, 2 bad input, 3 something was refused, 130 stopped by Ctrl-C."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and words[0] not in (*COMMANDS, "-h", "--help"):
        words.insert(0, "run")
    given = _parser().parse_args(words or ["--help"])
    try:
        return int(given.function(given))
    except SpecError as error:
        print(error, file=sys.stderr)
    except (FilterError, UsageError, CatalogError) as error:
        print(f"error: {error}", file=sys.stderr)
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="launch/run.py",
        description="Run the trials of specs, one file a table or figure of the paper. Without a command: run.",
    )
    commands = parser.add_subparsers(required=True, metavar="{" + ",".join(COMMANDS) + "}")
    run = _command(commands, "run", _run, "run what is not finished yet")
    run.add_argument("--dry-run", action="store_true", help="print the plan and do nothing")
    run.add_argument("--backend", default="local", help=f"one of {', '.join(_backends())} (default: local)")
    run.add_argument("--workers", type=_positive, help="worker processes (default: one a GPU slot, or one a CPU core)")
    run.add_argument("--trials-per-gpu", type=_positive, default=1, help="trials side by side on one GPU (default: 1)")
    run.add_argument(
        "--force", action="store_true", help="run finished trials again; the former runs are kept in results/replaced"
    )
    _command(commands, "plan", _plan, "print the plan, as run --dry-run does")
    _command(commands, "status", _plan, "print the state of every trial")
    sync = commands.add_parser("sync", help="mirror all run directories into MLflow")
    sync.set_defaults(function=_sync)
    return parser


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, function: object, text: str
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text)
    command.set_defaults(function=function)
    command.add_argument("specs", nargs="+", metavar="SPEC.yaml")
    command.add_argument("--profile", help="a smaller copy of the table that the spec describes, such as smoke")
    command.add_argument(
        "--where", action="append", default=[], metavar="KEY=VALUE", help="only these, e.g. backbone=resnet18"
    )
    command.add_argument("--seeds", type=_seeds, help="other seeds than the spec's, e.g. 0,1")
    command.add_argument("--json", action="store_true", help="print the trials as JSON")
    return command


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 on, found '{text}'")
    return int(text)


def _seeds(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.isdigit() for part in parts) or len({int(part) for part in parts}) != len(parts):
        raise argparse.ArgumentTypeError(f"must be different whole numbers with commas, such as 0,1,2; found '{text}'")
    return [int(part) for part in parts]


def _backends() -> list[str]:
    return sorted(path.stem for path in (Path(__file__).parent / "backends").glob("[!_]*.py"))


def _specs(given: argparse.Namespace) -> list[Spec]:
    """All specs named; the mistakes of all of them are printed before the first one ends the command."""
    specs, errors = [], []
    for name in given.specs:
        try:
            specs.append(load_spec(_find(name), given.profile, given.seeds))
        except SpecError as error:
            errors.append(error)
    for earlier in errors[:-1]:
        print(earlier, file=sys.stderr)
    if errors:
        raise errors[-1]
    return specs


def _find(name: str) -> Path:
    """A path as it is, or from the repository's root, where the command is typed in another folder."""
    path = Path(name)
    return ROOT / path if not path.exists() and (ROOT / path).exists() else path


def _plan(given: argparse.Namespace) -> int:
    plan = make_plan(_specs(given), runs_dir(), given.where)
    _show(plan, given.json)
    return 0


def _show(plan: Plan, as_json: bool) -> None:
    if as_json:
        print(plan.to_json())
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False, width=None if sys.stdout.isatty() else 240)  # a pipe gets whole lines
    table = Table("spec", "row", "seed", "trial", "state", box=None, header_style="bold")
    for use in plan.uses:
        colour = _COLOURS[use.state]
        spec = f"{use.spec.name} ({use.spec.profile})" if use.spec.profile else use.spec.name
        table.add_row(spec, escape(use.row), str(use.trial.seed), use.trial.id, f"[{colour}]{use.state}[/]")
    console.print(table)
    console.print(_summary(plan), soft_wrap=True)
    for refusal in plan.refusals():
        console.print(f"refused: {refusal}", soft_wrap=True, markup=False)


def _summary(plan: Plan) -> str:
    unique = plan.unique
    states = Counter(use.state for use in unique.values())
    shared = len(plan.uses) - len(unique)
    counts = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    epochs = sum(use.trial.values["train"]["epochs"] for use in plan.to_run())
    reuse = f" ({len(plan.uses)} cells × seeds, {shared} of them shared)" if shared else ""
    return f"{len(unique)} trials{reuse}: {counts or 'none'}; {epochs} epochs to train"


def _run(given: argparse.Namespace) -> int:
    if given.backend not in _backends():
        raise UsageError(f"unknown backend '{given.backend}'{near(given.backend, _backends())}")
    specs = _specs(given)
    plan = make_plan(specs, runs_dir(), given.where)
    if given.dry_run:
        _show(plan, given.json)
        return 0
    if given.force:
        _set_aside(plan)
        plan = make_plan(specs, runs_dir(), given.where)
    for refusal in plan.refusals():
        _say(f"refused: {refusal}")
    prepare([use for use in plan.uses if use.state != "refused"], runs_dir())
    ended = _execute(plan, given)
    if given.json:
        print(make_plan(specs, runs_dir(), given.where).to_json())
    outcomes = Counter(end.outcome for end in ended.values())
    if outcomes["failed"]:
        return 1
    if outcomes["interrupted"]:
        return 130
    return 3 if plan.refusals() else 0


def _set_aside(plan: Plan) -> None:
    """--force: a finished run moves to results/replaced, whole; nothing is deleted."""
    for identity, use in plan.unique.items():
        if use.state == "running":
            raise UsageError(f"trial {identity} is running; wait for it, or stop it, before --force")
    for identity, use in plan.unique.items():
        if use.state != "waiting":
            target = results_dir() / "replaced" / f"{identity}-{time.strftime('%Y%m%d-%H%M%S')}"
            target.parent.mkdir(parents=True, exist_ok=True)
            (runs_dir() / identity).rename(target)


def _execute(plan: Plan, given: argparse.Namespace) -> dict[Path, Ended]:
    """Run what is to run, mirroring as it goes; say at the end what happened and how to go on."""
    began = time.monotonic()
    to_run = {runs_dir() / use.trial.id: use for use in plan.to_run()}
    everything = [runs_dir() / identity for identity, use in plan.unique.items() if use.state != "refused"]
    ended: dict[Path, Ended] = {}
    if to_run:
        backend = importlib.import_module(f"launch.backends.{given.backend}")
        watcher = ProgressWatcher(
            {path: use.label for path, use in to_run.items()},
            {path: use.trial.values["train"]["epochs"] for path, use in to_run.items()},
        )
        _say(f"running {len(to_run)} of {len(everything)} trials; {len(everything) - len(to_run)} finished already")
        with _Mirroring(everything), watcher:
            ended = backend.run(list(to_run), watcher, workers=given.workers, trials_per_gpu=given.trials_per_gpu)
    else:
        _say(f"all {len(everything)} trials were finished already")
        _mirror(everything)
    if ended:
        outcomes = Counter(end.outcome for end in ended.values())
        _say(f"{', '.join(f'{n} {word}' for word, n in outcomes.items())} in {time.monotonic() - began:.1f} s")
        if outcomes["interrupted"]:
            _say("stopped; nothing is lost: the same command goes on from here")
        elif outcomes["failed"]:
            _say("failed trials keep their log.txt and journal; the same command tries them again")
    return ended


class _Mirroring:
    """Mirrors in the background while trials run, and once more at the end."""

    def __init__(self, run_dirs: list[Path]) -> None:
        self.run_dirs = run_dirs
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._loop, daemon=True)

    def _loop(self) -> None:
        while not self.done.wait(MIRROR_SECONDS):
            _mirror(self.run_dirs)

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.thread.join()
        _mirror(self.run_dirs)


def _mirror(run_dirs: list[Path]) -> int | None:
    """None where the store cannot be reached: training goes on, and `sync` mirrors later."""
    from launch.tracking import mirror

    try:
        return mirror(run_dirs)
    except Exception as error:  # whatever MLflow, its server or its database throws
        _say_once(
            f"the tracking store {tracking_uri()} cannot be written ({_root(error)}); "
            "nothing is lost: `python launch/run.py sync` mirrors it later"
        )
        return None


@functools.cache
def _say_once(text: str) -> None:
    _say(text)


def _root(error: BaseException) -> str:
    """The first line of what an error began with."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"


def _sync(given: argparse.Namespace) -> int:
    run_dirs = sorted(entry for entry in runs_dir().iterdir() if entry.is_dir()) if runs_dir().exists() else []
    count = _mirror(run_dirs)
    if count is None:
        return 1
    states = Counter(rundir.state(run_dir) for run_dir in run_dirs)
    _say(
        f"{count} of {len(run_dirs)} runs had something new ({', '.join(f'{n} {s}' for s, n in states.items()) or 'no runs'})"
    )
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
