"""Submits run directories as job arrays: what has no job yet, in groups of equal resources, as
large as the cluster takes.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from launch.backends import snapshot
from launch.backends.base import Limits
from launch.backends.queue import parents_of
from launch.backends.scheduling import balance
from launch.backends.slurm import cli, jobs, submissions
from launch.backends.slurm.cli import SlurmError
from launch.backends.slurm.jobs import JobRef
from launch.backends.slurm.script import BatchScript, JobResources, python_command
from launch.backends.slurm.site import Site
from launch.backends.slurm.wait import failure
from launch.console import say
from launch.errors import UsageError
from launch.paths import ROOT, results_dir
from launch.runs.job import Job, Outcome
from launch.runs.rundir import RunDir


def newest_jobs(
    run_dirs: Iterable[Path], last: Mapping[Path, Mapping[str, Any]] | None = None
) -> dict[Path, Job]:
    """What SLURM says of the newest job of each run directory that ever had one."""
    if last is None:
        last = {
            run_dir: lines[-1] for run_dir in run_dirs if (lines := submissions.job_lines(run_dir))
        }
    newest = {run_dir: JobRef.of(last[run_dir]) for run_dir in run_dirs if run_dir in last}
    found = jobs.states(newest.values())
    return {run_dir: found[job] for run_dir, job in newest.items()}


def without_job(run_dirs: Sequence[Path]) -> list[Path]:
    """Those that no job waits for or works on; SlurmError where SLURM does not say."""
    known = newest_jobs(run_dirs)
    for job in known.values():
        if job.state == "unknown":
            raise SlurmError(job.where)
    alive = {
        run_dir
        for run_dir, job in known.items()
        if job.state in ("pending", "running") and not _is_done_with(run_dir)
    }
    # A job that ends may still be saving its trial: the next one waits until the lease is free.
    ending = {run_dir for run_dir, job in known.items() if job.where == jobs.ENDING}
    return [
        run_dir
        for run_dir in run_dirs
        if run_dir not in alive
        and (state := RunDir(run_dir).state()) != "finished"
        and (state != "running" or run_dir in ending)
    ]


def _is_done_with(run_dir: Path) -> bool:
    """Whether its job, which may have other trials to run, has failed with this one."""
    if RunDir(run_dir).state() != "failed":
        return False
    newest = JobRef.of(submissions.job_lines(run_dir)[-1])
    entries = (entry for task in submissions.tasks_of(newest) for entry in task)
    return any(
        failure(run_dir, entry.journal) is not None
        for entry in entries
        if entry.run_dir == run_dir
    )


class _Array(NamedTuple):
    resources: JobResources
    parents: frozenset[Path]
    """The unfinished trials from which its own start."""
    tasks: list[list[Path]]


def submit_all(run_dirs: Sequence[Path], site: Site, limits: Limits) -> dict[Path, Outcome]:
    """Submit in arrays, each of equal resources and parents, as large as the cluster takes;
    returns those that cannot be, and those that it refused once others were in.
    """
    known, left_out = _parents_elsewhere(run_dirs)
    arrays = _arrays([run_dir for run_dir in run_dirs if run_dir not in left_out], site)
    at_a_time = _tasks_at_a_time(site, limits)
    # Arrays side by side: %N bounds each array, not their sum.
    lanes = min(len(arrays), at_a_time or len(arrays))
    tree = snapshot.take(ROOT, results_dir()) if arrays else ROOT
    ids: list[str] = []
    for number, array in enumerate(arrays):
        throttle = at_a_time and at_a_time // lanes + (number % lanes < at_a_time % lanes)
        after = [f"afterany:{ids[number - lanes]}"] if at_a_time and number >= lanes else []
        after += dependencies(known[parent] for parent in sorted(array.parents))
        try:
            folder = submissions.record_intent(array.tasks)
            command = python_command("launch.backends.slurm.task", folder, limits.trials_per_gpu)
            script = BatchScript(folder, site, tree, array.resources, command)
            ids.append(_submit(array, script, throttle, after))
        except SlurmError as error:
            if not ids:
                raise
            say(f"SLURM took {len(ids)} of {len(arrays)} arrays and refused the next: {error}")
            left = (path for rest in arrays[number:] for task in rest.tasks for path in task)
            why = Outcome("unsubmitted", f"SLURM refused it: {error}")
            return left_out | dict.fromkeys(left, why)
        for index, task in enumerate(array.tasks):
            known |= dict.fromkeys(task, _ParentTask(f"{ids[-1]}_{index}", len(task) > 1))
    return left_out


class _ParentTask(NamedTuple):
    """The array task that trains a parent."""

    id: str
    is_shared: bool
    """With other trials, of which any may fail it."""


def dependencies(parents: Iterable[_ParentTask]) -> list[str]:
    """What sbatch calls it that these have ended well. Where others could fail a parent's task,
    its end is enough: the task of the child asks for the parent's weights before it starts.
    """
    kinds: dict[str, dict[str, None]] = {}
    for parent in parents:
        kinds.setdefault("afterany" if parent.is_shared else "afterok", {})[parent.id] = None
    return [f"{kind}:{':'.join(ids)}" for kind, ids in kinds.items()]


def _parents_elsewhere(
    run_dirs: Sequence[Path],
) -> tuple[dict[Path, _ParentTask], dict[Path, Outcome]]:
    """The tasks of unfinished parents that were submitted before; and those of the run directories
    that cannot be submitted, as a parent of theirs has no task and gets none.
    """
    chosen = set(run_dirs)
    unfinished = {run_dir: _unfinished_parents(run_dir) for run_dir in run_dirs}
    outside = sorted({p for parents in unfinished.values() for p in parents} - chosen)
    known = {
        run_dir: _ParentTask(job.id, _is_shared(run_dir))
        for run_dir, job in newest_jobs(outside).items()
        if job.state in ("pending", "running")
    }
    left_out: dict[Path, Outcome] = {}
    while True:  # until no further one starts from one that is left out
        new = {
            run_dir: _left_out(lost)
            for run_dir, parents in unfinished.items()
            if run_dir not in left_out
            and (lost := [p for p in parents if p in left_out or p not in chosen | known.keys()])
        }
        if not new:
            return known, left_out
        left_out |= new


def _left_out(parents: Sequence[Path]) -> Outcome:
    parent = parents[0]
    if RunDir(parent).state() == "running":
        why = f"not submitted: it starts from trial {parent.name}, which runs outside SLURM now"
        return Outcome("unsubmitted", why)
    return Outcome("blocked", f"it starts from trial {parent.name}, which is not trained")


def _unfinished_parents(run_dir: Path) -> frozenset[Path]:
    return frozenset(p for p in parents_of(run_dir) if RunDir(p).state() != "finished")


def _is_shared(run_dir: Path) -> bool:
    tasks = submissions.tasks_of(JobRef.of(submissions.job_lines(run_dir)[-1]))
    return any(len(task) > 1 for task in tasks if run_dir in [entry.run_dir for entry in task])


def _arrays(run_dirs: Sequence[Path], site: Site) -> list[_Array]:
    """In an order in which the arrays of parents come first."""
    chosen = set(run_dirs)
    parents = {run_dir: _unfinished_parents(run_dir) for run_dir in run_dirs}

    def depth(run_dir: Path) -> int:
        inside = parents[run_dir] & chosen
        return 1 + max(map(depth, inside)) if inside else 0

    groups: dict[tuple[JobResources, frozenset[Path]], list[Path]] = {}
    for run_dir in sorted(run_dirs, key=depth):
        groups.setdefault((JobResources.of(run_dir, site), parents[run_dir]), []).append(run_dir)
    if site.trials_per_job > 1 and any(resources.is_distributed for resources, _ in groups):
        raise UsageError(
            "trials_per_job packs trials of one GPU each, and there are some that take more; "
            "leave it out, or choose with --where"
        )
    arrays: list[_Array] = []
    most = cli.most_tasks() if groups else 1
    for (resources, needed), group in groups.items():
        packed = balance(group, -(-len(group) // site.trials_per_job))
        arrays += [
            _Array(resources, needed, packed[start : start + most])
            for start in range(0, len(packed), most)
        ]
    return arrays


def _tasks_at_a_time(site: Site, limits: Limits) -> int | None:
    if limits.workers is None:
        return site.max_parallel
    return -(-limits.workers // min(limits.trials_per_gpu, site.trials_per_job))


def _submit(array: _Array, script: BatchScript, throttle: int | None, after: Sequence[str]) -> str:
    """Returns its id; SlurmError, with what it asked for, where SLURM refuses it."""
    for task in array.tasks:
        for run_dir in task:
            RunDir(run_dir).clear_cancel()
    try:
        return submissions.submit(script.write(len(array.tasks), throttle, after), script.folder)
    except SlurmError as error:
        if not array.resources.is_distributed:
            raise
        has = (
            f"{array.resources.gpus} GPUs"
            if array.resources.gpus
            else f"{array.resources.cpus(script.site)} CPUs"
        )
        asked = (
            f"{array.resources.nodes} nodes with {has} each for a trial; --gpus N or NODESxN "
            "trains on fewer"
        )
        raise SlurmError(f"{error} (asked for {asked})") from error
