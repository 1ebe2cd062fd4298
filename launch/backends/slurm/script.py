"""The sbatch script of an array: what a job asks for and what it runs."""

import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from launch.backends import snapshot
from launch.backends.slurm.site import Site
from launch.runs.resources import wanted
from rm.files import write_atomically

WARNING_SECONDS = 120
"""How long before the time limit a task is told to checkpoint."""


class JobResources(NamedTuple):
    """What a job is given for a trial: nodes, GPUs on each (0: none), processes on each."""

    nodes: int
    gpus: int
    processes: int

    @property
    def is_distributed(self) -> bool:
        return self.nodes * self.processes > 1

    def cpus(self, site: Site) -> int:
        """On each node."""
        return site.cpus_per_gpu * max(self.gpus, self.processes)

    @classmethod
    def of(cls, run_dir: Path, site: Site) -> "JobResources":
        """Of a trial's job."""
        resources = wanted(run_dir)
        if resources.processes == 1:
            return cls(1, site.gpus_per_trial, 1)
        return cls(resources.nodes, resources.gpus if site.gpus_per_trial else 0, resources.gpus)


def python_command(module: str, *words: object) -> str:
    """The shell command that runs a module of ours with this Python."""
    return shlex.join([sys.executable, "-P", "-u", "-m", module, *map(str, words)])


def checked(setup: Sequence[str]) -> list[str]:
    """The site's shell lines so that the job ends where one fails: without `module load cuda` it
    would train something else. Lines that only together are a command are checked together.
    """
    each = [_or_exit(line) for line in setup]
    return each if not each or _is_shell("\n".join(each)) else [_or_exit("\n".join(setup))]


def _or_exit(command: str) -> str:
    said = shlex.quote(f"setup failed: {command}")
    return f"{{ {command}\n}} || {{ echo {said}; exit 65; }}"


def _is_shell(text: str) -> bool:
    """Whether bash can read it."""
    try:
        done = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True)
    except OSError:
        return True
    return not done.returncode


class BatchScript:
    """An array's sbatch script, as submitit writes it.

    folder     one of results/slurm; its name is the job's
    tree       the snapshot of the code that the job runs
    command    what each task runs on each of its nodes, in a shell
    """

    def __init__(
        self, folder: Path, site: Site, tree: Path, resources: JobResources, command: str
    ) -> None:
        self.folder, self.site, self.tree = folder, site, tree
        self.resources, self.command = resources, command

    def write(
        self, tasks: int = 1, throttle: int | None = None, dependencies: Sequence[str] = ()
    ) -> Path:
        """Write it into the folder; returns its path.

        throttle       of the tasks, so many run at a time
        dependencies   what must be true before it starts, as sbatch writes it: `afterok:12_3`
        """
        from submitit import SlurmExecutor

        executor = SlurmExecutor(self.folder)
        options = {key: value for key, value in self.site.sbatch.items() if value is not False}
        if dependencies:
            # A job whose parent failed could never start; SLURM would keep it in the queue.
            options |= {"dependency": ",".join(dependencies), "kill-on-invalid-dep": "yes"}
        executor.update_parameters(**self._parameters(), array_parallelism=throttle or tasks)
        # submitit never asks for it, and without it preemption and lost nodes end a job
        executor.parameters["additional_parameters"] = {"requeue": True, **options}
        executor.parameters["map_count"] = tasks
        path = self.folder / "submission.sh"
        write_atomically(path, executor._make_submission_file_text(self.command, ""))
        return path

    def _parameters(self) -> dict[str, Any]:
        """The script's options under submitit's names."""
        site = self.site
        cpus = self.resources.cpus(site)
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
            "nodes": self.resources.nodes,
            "ntasks_per_node": 1,
            "gpus_per_node": self.resources.gpus or None,
            "cpus_per_task": cpus,
            "signal_delay_s": warning,
            "stderr_to_stdout": True,
            "setup": [
                *checked(site.setup),
                f"export PYTHONPATH={shlex.quote(str(self.tree))}",
                *snapshot.check_lines(self.tree),
            ],
            # Since 22.05 srun does not take the CPUs from sbatch. The first node's task decides
            # when the others end.
            "srun_args": [
                f"--cpus-per-task={cpus}",
                *["--kill-on-bad-exit=1"] * (self.resources.nodes > 1),
            ],
        }
