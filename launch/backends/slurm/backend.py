"""SLURM: job arrays, written by submitit and submitted at once; what becomes of them is read from
scheduler, lease and journal.

A task is `python -m launch.backends.slurm.task` in a snapshot of the working tree. It is told run
directories and nothing else.
"""

import argparse
import re
import shlex
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from launch.backends import Watcher, snapshot
from launch.backends.checks import Check
from launch.backends.scheduling import dealt
from launch.backends.slurm import cli, submissions
from launch.backends.slurm.cli import SlurmError
from launch.backends.slurm.site import Site, load_site
from launch.backends.slurm.wait import failure, wait_for
from launch.console import say
from launch.errors import UsageError
from launch.paths import ROOT, results_dir
from launch.runs import rundir
from launch.runs.job import Outcome, Job
from launch.runs.resources import wanted

WARNING_SECONDS = 120
"""How long before the time limit a task is told to checkpoint."""
SUBMIT_SECONDS = 120.0
ATTEMPTS = 3

_MAY_HAVE_WORKED = re.compile(
    r"time[d -]*out|did not answer|unable to contact|socket|connect|temporarily", re.IGNORECASE
)
"""Errors after which SLURM may have the job all the same, or have it soon; any other is a
refusal.
"""


def add_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--slurm",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a setting of the site, such as time=04:00:00",
    )
    group.add_argument(
        "--site", type=Path, metavar="FILE", help="the site's settings (default: launch/site.yaml)"
    )
    group.add_argument("--wait", action="store_true", help="stay until all trials have ended")


def settings(given: argparse.Namespace) -> dict[str, Any]:
    return {"site": load_site(given.site, given.slurm), "wait": given.wait}


def run(
    run_dirs: Sequence[Path],
    watcher: Watcher,
    *,
    workers: int | None = None,
    trials_per_gpu: int = 1,
    site: Site,
    wait: bool = False,
) -> dict[Path, Outcome]:
    """Submit what has no job yet. `workers` bounds the trials at a time, over all nodes, as the
    site's max_parallel does tasks.
    """
    if shutil.which("sbatch") is None:
        raise UsageError(
            "sbatch is not on the PATH of this machine; --backend slurm is for a cluster's login "
            "node"
        )
    before = {run_dir: submissions.journal_size(run_dir) for run_dir in run_dirs}
    try:
        with submissions.lock():
            adopted = submissions.adopt_orphans()
            if adopted:
                say(
                    f"{adopted} arrays of an earlier launch, which SLURM had accepted without "
                    "saying so, are adopted"
                )
            homeless = _without_job(run_dirs)
            if len(homeless) < len(run_dirs):
                say(
                    f"{len(run_dirs) - len(homeless)} of {len(run_dirs)} have a job or run already"
                )
            refused = _submit_all(homeless, site, workers, trials_per_gpu)
    except SlurmError as error:
        raise UsageError(f"nothing more was submitted: {error}") from error
    ended = {run_dir: refused.get(run_dir, Outcome("submitted", None)) for run_dir in run_dirs}
    if wait:
        return wait_for(ended, before, watcher, jobs)
    for run_dir, end in ended.items():
        watcher.on_end(run_dir, end)
    return ended


def jobs(
    run_dirs: Iterable[Path], last: Mapping[Path, Mapping[str, Any]] | None = None
) -> dict[Path, Job]:
    """What SLURM says of the newest job of each run directory that ever had one."""
    if last is None:
        last = {
            run_dir: lines[-1] for run_dir in run_dirs if (lines := submissions.noted(run_dir))
        }
    newest = {run_dir: last[run_dir]["id"] for run_dir in run_dirs if run_dir in last}
    found = cli.states(newest.values())
    return {run_dir: found[identity] for run_dir, identity in newest.items()}


def withdraw(run_dirs: Sequence[Path]) -> None:
    """scancel the tasks that have not started; one that others' trials share stays, and leaves out
    what is cancelled.
    """
    wanted, ids = set(run_dirs), []
    for name in {
        lines[-1]["name"] for run_dir in run_dirs if (lines := submissions.noted(run_dir))
    }:
        folder = results_dir() / "slurm" / name
        for index, task in enumerate(submissions.tasks(folder)):
            theirs = {entry.run_dir for entry in task}
            if theirs & wanted and theirs <= wanted | set(filter(rundir.cancelled, theirs)):
                ids.append(f"{submissions.identity(folder)}_{index}")
    cli.cancel([each for each, job in cli.states(ids).items() if job.state == "pending"])


class Shape(NamedTuple):
    """What a job is given for a trial: nodes, GPUs on each (0: none), processes on each."""

    nodes: int
    gpus: int
    processes: int

    @property
    def is_team(self) -> bool:
        return self.nodes * self.processes > 1

    def cpus(self, site: Site) -> int:
        """On each node."""
        return site.cpus_per_gpu * max(self.gpus, self.processes)


def shape(run_dir: Path, site: Site) -> Shape:
    """Of a trial's job."""
    resources = wanted(run_dir)
    if resources.processes == 1:
        return Shape(1, site.gpus_per_trial, 1)
    return Shape(resources.nodes, resources.gpus if site.gpus_per_trial else 0, resources.gpus)


def examine(*, submit: bool, site: Site, wait: bool = False) -> Iterator[Check]:
    """What `doctor` looks at; with `submit`, also by a job."""
    from launch.backends.slurm import doctor

    def write(folder: Path, command: str, site: Site) -> Path:
        given = Shape(1, site.gpus_per_trial, 1)
        return _Script(
            folder, site, snapshot.take(ROOT, results_dir()), given, command=command
        ).write(1, None, None)

    return doctor.examine(site, submit, write)


def _without_job(run_dirs: Sequence[Path]) -> list[Path]:
    """Those that no job waits for or works on; SlurmError where SLURM does not say."""
    known = jobs(run_dirs)
    for job in known.values():
        if job.state == "unknown":
            raise SlurmError(job.where)
    alive = {
        run_dir
        for run_dir, job in known.items()
        if job.state in ("pending", "running") and not _is_done_with(run_dir)
    }
    return [
        each
        for each in run_dirs
        if each not in alive and rundir.state(each) not in ("running", "finished")
    ]


def _is_done_with(run_dir: Path) -> bool:
    """Whether its job, which may have other trials to run, has failed with this one."""
    if rundir.state(run_dir) != "failed":
        return False
    newest = submissions.noted(run_dir)[-1]
    entries = (
        entry
        for task in submissions.tasks(results_dir() / "slurm" / newest["name"])
        for entry in task
    )
    return any(
        failure(run_dir, entry.journal) is not None
        for entry in entries
        if entry.run_dir == run_dir
    )


def _submit_all(
    run_dirs: Sequence[Path], site: Site, workers: int | None, side_by_side: int
) -> dict[Path, Outcome]:
    """Submit in arrays, each of one shape, as large as the cluster takes; returns those that it
    refused once others were in.
    """
    groups: dict[Shape, list[Path]] = {}
    for run_dir in run_dirs:
        groups.setdefault(shape(run_dir, site), []).append(run_dir)
    if site.trials_per_job > 1 and any(given.is_team for given in groups):
        raise UsageError(
            "trials_per_job packs trials of one GPU each, and there are some that take more; "
            "leave it out, or choose with --where"
        )
    arrays: list[_Array] = []
    most = cli.most_tasks() if groups else 1
    for given, group in groups.items():
        packed = dealt(group, -(-len(group) // site.trials_per_job))
        arrays += [
            _Array(given, packed[start : start + most]) for start in range(0, len(packed), most)
        ]
    at_a_time = (
        -(-workers // min(side_by_side, site.trials_per_job)) if workers else site.max_parallel
    )
    lanes = min(
        len(arrays), at_a_time or len(arrays)
    )  # arrays side by side; %N bounds each array, not their sum
    tree = snapshot.take(ROOT, results_dir()) if arrays else ROOT
    ids: list[str] = []
    for number, array in enumerate(arrays):
        throttle = at_a_time and at_a_time // lanes + (number % lanes < at_a_time % lanes)
        after = ids[number - lanes] if at_a_time and number >= lanes else None
        try:
            script = _Script(
                submissions.intend(array.tasks), site, tree, array.shape, side_by_side
            )
            ids.append(_submit(array, script, throttle, after))
        except SlurmError as error:
            if not ids:
                raise
            say(f"SLURM took {len(ids)} of {len(arrays)} arrays and refused the next: {error}")
            left = (each for rest in arrays[number:] for task in rest.tasks for each in task)
            return dict.fromkeys(left, Outcome("interrupted", "not submitted"))
    return {}


class _Array(NamedTuple):
    shape: Shape
    tasks: list[list[Path]]


def _submit(array: _Array, script: "_Script", throttle: int | None, after: str | None) -> str:
    """Returns its id; SlurmError, with what it asked for, where SLURM refuses it."""
    for task in array.tasks:
        for run_dir in task:
            rundir.clear_cancel(run_dir)
    try:
        return _sbatch(script.write(len(array.tasks), throttle, after), script.folder)
    except SlurmError as error:
        if not array.shape.is_team:
            raise
        has = (
            f"{array.shape.gpus} GPUs"
            if array.shape.gpus
            else f"{array.shape.cpus(script.site)} CPUs"
        )
        asked = (
            f"{array.shape.nodes} nodes with {has} each for a trial; --gpus N or NODESxN "
            "trains on fewer"
        )
        raise SlurmError(f"{error} (asked for {asked})") from error


def _sbatch(script: Path, folder: Path) -> str:
    """Submit once, whatever sbatch says: after an error that may have come too late, the job is
    looked up by its name.
    """
    for attempt in range(ATTEMPTS):
        try:
            said = cli.ask("sbatch", "--parsable", str(script), seconds=SUBMIT_SECONDS)
        except SlurmError as error:
            if not _MAY_HAVE_WORKED.search(str(error)):
                submissions.submitted(folder, None)
                raise
            time.sleep(2.0 * (attempt + 1))  # SLURM may still be at it
            if identity := submissions.settle(folder):
                return identity
            failure = error
            continue
        identity = said.strip().partition(";")[0]
        if attempt:  # an earlier attempt may have gone through since it was looked up
            return submissions.settle(folder) or identity
        submissions.submitted(folder, identity)
        return identity
    raise failure


class _Script:
    """An array's sbatch script, as submitit writes it."""

    def __init__(
        self,
        folder: Path,
        site: Site,
        tree: Path,
        given: Shape,
        side_by_side: int = 1,
        command: str | None = None,
    ) -> None:
        self.folder, self.site, self.tree, self.shape = folder, site, tree, given
        self.side_by_side, self.command = side_by_side, command

    def write(self, tasks: int, throttle: int | None, after: str | None) -> Path:
        from submitit import SlurmExecutor

        executor = SlurmExecutor(self.folder)
        options = {key: value for key, value in self.site.sbatch.items() if value is not False}
        if after:
            options["dependency"] = f"afterany:{after}"
        executor.update_parameters(**self._resources(), array_parallelism=throttle or tasks)
        # submitit never asks for it, and without it preemption and lost nodes end a job
        executor.parameters["additional_parameters"] = {"requeue": True, **options}
        executor.parameters["map_count"] = tasks
        path = self.folder / "submission.sh"
        path.write_text(executor._make_submission_file_text(self._command(), ""), encoding="utf-8")
        return path

    def _resources(self) -> dict[str, Any]:
        """The script's options under submitit's names."""
        site = self.site
        cpus = self.shape.cpus(site)
        warning = min(WARNING_SECONDS, site.seconds // 2) if site.seconds else WARNING_SECONDS
        return {
            "job_name": self.folder.name,
            "wckey": None,  # submitit would ask for one that the site does not know
            "partition": site.partition,
            "account": site.account,
            "qos": site.qos,
            "constraint": site.constraint,
            "time": site.time,
            "mem": site.mem,
            "nodes": self.shape.nodes,
            "ntasks_per_node": 1,
            "gpus_per_node": self.shape.gpus or None,
            "cpus_per_task": cpus,
            "signal_delay_s": warning,
            "stderr_to_stdout": True,
            "setup": [
                *site.setup,
                f"export PYTHONPATH={shlex.quote(str(self.tree))}",
                f"cd {shlex.quote(str(self.tree))}",
            ],
            # Since 22.05 srun does not take the CPUs from sbatch. The first node's task decides
            # when the others end.
            "srun_args": [
                f"--cpus-per-task={cpus}",
                *["--kill-on-bad-exit=1"] * (self.shape.nodes > 1),
            ],
        }

    def _command(self) -> str:
        if self.command:
            return self.command
        words = [
            sys.executable,
            "-u",
            "-m",
            "launch.backends.slurm.task",
            str(self.folder),
            str(self.side_by_side),
        ]
        return shlex.join(words)
