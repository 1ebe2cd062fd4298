"""`--on-slurm nodes=N`: one SLURM job that brings Ray up over its nodes, runs the plan, and shuts
down; requeued, it goes on.

    python -m launch.backends.ray.on_slurm FOLDER SIDE_BY_SIDE WORKERS     on each node, by srun;
    FOLDER as in launch/backends/slurm/task.py

`ray symmetric-run` would bring Ray up as well, but it refuses a node on which any Ray runs
already, gives up on nodes that are half a minute late, and stops every Ray of the machine at its
end; a node may be shared. So the first process of the job starts the head and the others join it.
To SLURM the job is an array of one task: status, cancel and requeueing are those of `--backend
slurm`. SLURM's warnings go to every process of a job. Ray's would end at once, and trainings with
them, so they are started with these signals blocked; the driver alone hears them, makes the actors
checkpoint, and then ends Ray.
"""

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from launch.backends import snapshot
from launch.backends.base import Limits, Watcher
from launch.backends.queue import Trials, by_processes
from launch.backends.ray.cluster import NICENESS, OBJECT_STORE_BYTES, divide, joined, nodes
from launch.backends.ray.folder import RayFolder
from launch.backends.ray.gpu_memory import check_memory
from launch.backends.ray.pool import Pool
from launch.backends.slurm import arrays, submissions
from launch.backends.slurm.cli import SlurmError
from launch.backends.slurm.jobs import SlurmJobContext
from launch.backends.slurm.script import BatchScript, JobResources, python_command
from launch.backends.slurm.site import Site
from launch.backends.slurm.task import SIGNALS, Task
from launch.console import say
from launch.errors import UsageError
from launch.interpreter import module_command
from launch.paths import ROOT, results_dir
from launch.runs.job import Outcome
from launch.worker.nodes import dismiss, invite, rendezvous_path

NODES_SECONDS = 180.0
"""How long the first node waits for the others; later ones still join, but the CPU share of a
worker stays as it is then.
"""


def submit(
    run_dirs: Sequence[Path], watcher: Watcher, limits: Limits, *, site: Site, on_nodes: int
) -> dict[Path, Outcome]:
    """Submit one job of so many nodes for what has no job yet; returns at once."""
    if any(count > 1 for count, _ in by_processes(run_dirs)):
        raise UsageError(
            "there are trials that take several GPUs each, and --on-slurm gives each one; "
            "--backend slurm gives them all, --gpus 1 trains them on one"
        )
    try:
        with submissions.lock():
            submissions.recover_submissions()
            unsubmitted = arrays.without_job(run_dirs)
            if unsubmitted:
                job = _sbatch(unsubmitted, site, on_nodes, limits)
                say(f"{len(unsubmitted)} trials go to SLURM as job {job}")
    except SlurmError as error:
        raise UsageError(f"nothing was submitted: {error}") from error
    new = set(unsubmitted)
    ended = {
        run_dir: Outcome("submitted" if run_dir in new else "queued", None) for run_dir in run_dirs
    }
    for run_dir, end in ended.items():
        watcher.on_end(run_dir, end)
    return ended


def _sbatch(run_dirs: Sequence[Path], site: Site, on_nodes: int, limits: Limits) -> str:
    folder = submissions.record_intent([run_dirs])
    command = python_command(
        "launch.backends.ray.on_slurm", folder, limits.trials_per_gpu, limits.workers or 0
    )
    resources = JobResources(on_nodes, site.gpus_per_trial, 1)
    tree = snapshot.take(ROOT, results_dir())
    script = BatchScript(folder, site, tree, resources, command).write()
    return submissions.submit(script, folder)


class _RayNode:
    """Ray's processes on this node, in a folder of their own, deaf to what SLURM says."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self._folder = RayFolder()
        self.folder = self._folder.path
        gpus = [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
        size = ["--num-cpus", str(SlurmJobContext.read().cpus), "--num-gpus", str(len(gpus))]
        size += ["--object-store-memory", str(OBJECT_STORE_BYTES), "--temp-dir", str(self.folder)]
        ray = module_command("ray.scripts.scripts", "start", "--block", "--disable-usage-stats")
        with (self.folder / "start.log").open("w") as log:
            before = signal.pthread_sigmask(
                signal.SIG_BLOCK, SIGNALS
            )  # what is started inherits it
            try:
                self.process = subprocess.Popen(
                    [*ray, *size, *arguments],
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={NICENESS: "0", **os.environ},
                )
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def log_end(self) -> str:
        """The end of its log."""
        return (self.folder / "start.log").read_text(encoding="utf-8", errors="replace")[-2000:]

    def stop(self) -> None:
        """End it and all its processes, which hear nothing but SIGKILL."""
        for pid in [self.process.pid, *_below(self.process.pid)]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait()
        self._folder.remove()


def _below(pid: int) -> list[int]:
    """All processes under one."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int(
                (entry / "stat")
                .read_text(encoding="ascii", errors="replace")
                .rpartition(")")[2]
                .split()[1]
            )
        except OSError:
            continue
        parents.setdefault(parent, []).append(int(entry.name))
    found, open_ = [], [pid]
    while open_:
        children = parents.get(open_.pop(), [])
        found += children
        open_ += children
    return found


class _RayTask(Task):
    """The plan on all nodes of the job; what is noted, failed and requeued is as for one array
    task.
    """

    def __init__(
        self, folder: Path, side_by_side: int, job: SlurmJobContext, workers: int, address: str
    ) -> None:
        super().__init__(folder, side_by_side, job)
        self.workers, self.address = workers or None, address

    def work(self, todo: Sequence[Path]) -> None:
        with joined(self.address):
            for number in SIGNALS:  # Ray has put its own handler over SIGTERM's
                signal.signal(number, self.on_signal)
            slots = divide(self._await_nodes(), Limits(self.workers, self.side_by_side))
            check_memory(todo, slots)
            trials = Trials(todo, self)
            Pool(trials, 1, slots, lambda: int(self.stopped), grows=self.workers is None).run()
            self.note_ends(trials.close())

    def _await_nodes(self) -> list[dict[str, float]]:
        wanted, deadline = int(os.environ["SLURM_JOB_NUM_NODES"]), time.monotonic() + NODES_SECONDS
        while len(there := nodes()) < wanted and time.monotonic() < deadline and not self.stopped:
            time.sleep(0.5)
        print(f"Ray runs on {len(there)} of {wanted} nodes", flush=True)
        return there


def _head(folder: Path, side_by_side: int, workers: int, rendezvous: Path) -> int:
    """Start the head, tell the others where it is, run what is to run, end."""
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
    node = _RayNode(["--head", "--port", "0", "--include-dashboard", "false"])
    try:
        found = node.folder / "ray_current_cluster"
        while not found.exists():
            if node.process.poll() is not None:
                print(f"Ray did not start: {node.log_end()}", flush=True)
                return 1
            time.sleep(0.2)
        address = found.read_text(encoding="ascii").strip()
        invite(rendezvous, {"address": address, "token": os.environ["RAY_AUTH_TOKEN"]})
        return _RayTask(folder, side_by_side, SlurmJobContext.read(), workers, address).run()
    except UsageError as error:
        print(error, flush=True)
        return 1
    finally:
        dismiss(rendezvous)
        node.stop()


def _member(rendezvous: Path) -> int:
    """Join the head and stay until it says that all is done."""
    done = rendezvous.with_suffix(".done")
    while not rendezvous.exists():
        if done.exists():
            return 0
        time.sleep(0.5)
    head = json.loads(rendezvous.read_text(encoding="utf-8"))
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": head["token"]}
    node = _RayNode(["--address", head["address"]])
    try:
        while not done.exists():
            if node.process.poll() is not None:
                print(f"Ray ended on {SlurmJobContext.read().node}: {node.log_end()}", flush=True)
                return 0  # the others go on without this node
            time.sleep(0.5)
    finally:
        node.stop()
    return 0


def main() -> int:
    """The command."""
    folder, side_by_side, workers = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    rendezvous = rendezvous_path(folder, "ray")
    if int(os.environ["SLURM_PROCID"]) == 0:
        return _head(folder, side_by_side, workers, rendezvous)
    for number in SIGNALS:
        signal.signal(number, lambda number, frame: None)  # the first node decides
    return _member(rendezvous)


if __name__ == "__main__":
    sys.exit(main())
