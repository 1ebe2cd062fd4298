"""SLURM: job arrays, written by submitit and submitted at once; what becomes of them is read from
scheduler, lease and journal.

A task is `python -m launch.backends.slurm.task` in a snapshot of the working tree. It is told run
directories and nothing else.
"""

import argparse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from launch.backends import snapshot
from launch.backends.base import Backend, Limits, Watcher
from launch.backends.slurm import arrays, jobs, submissions
from launch.backends.slurm.cli import SlurmError, check_login_node
from launch.backends.slurm.jobs import JobRef
from launch.backends.slurm.script import BatchScript, JobResources
from launch.backends.slurm.site import Site, load_site
from launch.backends.slurm.wait import wait_for
from launch.console import say
from launch.errors import UsageError
from launch.paths import ROOT, results_dir
from launch.runs.job import Job, Outcome
from launch.runs.rundir import RunDir

if TYPE_CHECKING:
    from launch.backends.checks import Check


class SlurmBackend(Backend):
    """Submits and returns; `workers` bounds the trials at a time over all nodes, as the site's
    max_parallel does tasks.
    """

    name = "slurm"
    has_scheduler = True

    def __init__(self, site: Site, wait: bool = False) -> None:
        self.site, self.wait = site, wait

    @classmethod
    def add_arguments(cls, group: argparse._ArgumentGroup) -> None:
        group.add_argument(
            "--slurm",
            action="append",
            default=[],
            metavar="KEY=VALUE",
            help="a setting of the site, such as time=04:00:00",
        )
        group.add_argument(
            "--site",
            type=Path,
            metavar="FILE",
            help="the site's settings (default: launch/site.yaml)",
        )
        group.add_argument("--wait", action="store_true", help="stay until all trials have ended")

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> Self:
        return cls(load_site(args.site, args.slurm), args.wait)

    def check(self, limits: Limits) -> None:
        check_login_node("--backend slurm")

    def run(
        self, run_dirs: Sequence[Path], watcher: Watcher, limits: Limits
    ) -> dict[Path, Outcome]:
        """Submit what has no job yet."""
        before = {run_dir: submissions.journal_size(run_dir) for run_dir in run_dirs}
        try:
            with submissions.lock():
                outcomes = self._submit(run_dirs, limits)
        except SlurmError as error:
            raise UsageError(f"nothing more was submitted: {error}") from error
        ended = {run_dir: outcomes.get(run_dir, Outcome("queued", None)) for run_dir in run_dirs}
        if self.wait:
            return wait_for(ended, before, watcher, self.jobs)
        for run_dir, end in ended.items():
            watcher.on_end(run_dir, end)
        return ended

    def _submit(self, run_dirs: Sequence[Path], limits: Limits) -> dict[Path, Outcome]:
        """What became of those that had no job."""
        recovered = submissions.recover_submissions()
        if recovered:
            say(
                f"{recovered} arrays of an earlier launch, which SLURM had accepted without "
                "saying so, are adopted"
            )
        unsubmitted = arrays.without_job(run_dirs)
        if len(unsubmitted) < len(run_dirs):
            say(f"{len(run_dirs) - len(unsubmitted)} of {len(run_dirs)} have a job or run already")
        refused = arrays.submit_all(unsubmitted, self.site, limits)
        return dict.fromkeys(unsubmitted, Outcome("submitted", None)) | refused

    @classmethod
    def jobs(
        cls, run_dirs: Iterable[Path], last: Mapping[Path, Mapping[str, Any]] | None = None
    ) -> dict[Path, Job]:
        return arrays.newest_jobs(run_dirs, last)

    @classmethod
    def withdraw(cls, run_dirs: Sequence[Path]) -> None:
        """scancel the tasks that have not started; one that others' trials share stays, and leaves
        out what is cancelled.
        """
        chosen = set(run_dirs)
        newest = [
            JobRef.of(lines[-1])
            for run_dir in run_dirs
            if (lines := submissions.job_lines(run_dir))
        ]
        unwanted = set()
        for job in {job.name: job for job in newest}.values():
            array, _, _ = job.id.partition("_")
            for index, task in enumerate(submissions.tasks_of(job)):
                members = {entry.run_dir for entry in task}
                others = members - chosen
                if members & chosen and all(RunDir(each).cancelled() for each in others):
                    unwanted.add(job._replace(id=f"{array}_{index}"))
        jobs.cancel(unwanted, pending=True)

    def diagnose(self, *, submit: bool) -> Iterator["Check"]:
        from launch.backends.slurm import doctor

        def write(folder: Path, command: str, site: Site) -> Path:
            resources = JobResources(1, site.gpus_per_trial, 1)
            tree = snapshot.take(ROOT, results_dir())
            return BatchScript(folder, site, tree, resources, command).write()

        return doctor.diagnose(self.site, submit, write)
