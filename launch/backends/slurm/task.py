"""What one SLURM task does on its node: run its run directories in warm workers, and put itself
back into the queue.

    python -m launch.backends.slurm.task FOLDER SIDE_BY_SIDE          FOLDER is one of
    results/slurm, see launch/backends/slurm/submissions.py

SLURM's warnings (USR2 before the time limit, TERM before preemption or the end) make the workers
checkpoint at the next step. Then this task decides: as long as what is left got further than at
its last start, it is requeued; after three starts that did not, it is failed. Exit status 0 all
ended well, 1 something failed, 75 interrupted.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from launch.backends import gpu_memory
from launch.backends.local.pool import Pool, Slot
from launch.backends.queue import Trials
from launch.backends.slurm import cli, jobs, submissions
from launch.backends.slurm.cli import SlurmError
from launch.backends.slurm.jobs import JobRef, SlurmJobContext
from launch.backends.slurm.submissions import Entry
from launch.backends.slurm.wait import failure
from launch.backends.threads import thread_environment
from launch.errors import UsageError
from launch.runs import lease, rundir
from launch.runs.job import Outcome
from launch.runs.resources import wanted
from launch.runs.rundir import RunDir
from launch.worker import nodes, process_group
from rm.files import append_line

MOST_STARTS = 3
"""Starts without progress after which a trial is failed."""
INTERRUPTED = 75
REQUEUE_SECONDS = 600.0
"""How long a controller that does not answer is asked again for the requeueing."""

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)


class Task:
    """The run directories of one array index, in one incarnation of its job."""

    def __init__(self, folder: Path, side_by_side: int, job: SlurmJobContext) -> None:
        self.folder, self.side_by_side, self.job = folder, side_by_side, job
        self.entries = submissions.tasks(folder)[job.task]
        self.failed = self.stopped = False
        self.warned: set[int] = set()
        """The signals that came."""
        self.begun: set[Path] = set()
        self.in_order: set[Path] = set()
        """What was begun and then left with a checkpoint."""
        self.blocked: set[Path] = set()
        self.pool: Pool | None = None

    def run(self) -> int:
        """Work until all has ended or a signal comes; returns the exit status."""
        for number in SIGNALS:
            signal.signal(number, self.on_signal)
        try:
            while (left := self._left()) and not self.stopped:
                try:
                    self.work(left)
                except UsageError as refusal:
                    self._refuse(left, str(refusal))
        finally:
            if int(os.environ.get("SLURM_JOB_NUM_NODES", 1)) > 1:
                nodes.dismiss(nodes.rendezvous_path(self.folder))
        if left:
            self._requeue(left)
            return INTERRUPTED
        return int(self.failed)

    def _left(self) -> list[Path]:
        """What is still to be run; failing what has been started in vain too often."""
        return [
            entry.run_dir
            for entry in self.entries
            if entry.run_dir not in self.blocked
            and self._is_open(entry)
            and not self._is_stuck(entry.run_dir)
        ]

    def _refuse(self, left: Sequence[Path], why: str) -> None:
        """Fail what cannot be run as it was asked for."""
        for run_dir in left if not self.stopped else []:  # a signal may have been the reason
            self._fail(run_dir, why)

    def work(self, todo: Sequence[Path]) -> None:
        """Run these until they have ended or a signal comes; more than once where a cancelled one
        is wanted again.
        """
        per_gpu = (
            min(self.side_by_side, len(todo)) if os.environ.get("CUDA_VISIBLE_DEVICES") else 1
        )
        gpu_memory.check(todo, per_gpu, gpu_memory.min_free_here)
        trials = Trials(todo, self)
        (group,) = trials.ready  # a task's trials are alike in that
        places = [Slot(group, each) for each in self._environments(len(todo))]
        self.pool = Pool(trials, places)
        if self.stopped:
            self.pool.stop()
        self.pool.run()
        self.note_ends(trials.close())

    def note_ends(self, ended: Mapping[Path, Outcome]) -> None:
        for run_dir, outcome in ended.items():
            if outcome.status == "failed":
                self._fail(run_dir, outcome.error or "no reason given")
            elif outcome.status == "interrupted" and run_dir in self.begun:
                self.in_order.add(run_dir)
            elif outcome.status == "blocked":  # nothing to mark: `run` submits it once it may
                self.failed = True
                self.blocked.add(run_dir)

    def on_signal(self, number: int, frame: object) -> None:
        """Once: the local backend takes a second call for impatience, but SLURM warns and
        terminates in turn.
        """
        self.warned.add(number)
        if not self.stopped:
            print(f"{signal.Signals(number).name}: checkpointing", flush=True)
            self.stopped = True
            if self.pool:
                self.pool.stop()

    def _is_open(self, entry: Entry) -> bool:
        """Still to be run by this submission: neither finished, nor cancelled, nor failed since it
        was submitted.
        """
        if RunDir(entry.run_dir).has(rundir.RESULT) or RunDir(entry.run_dir).cancelled():
            return False
        failed = failure(entry.run_dir, entry.journal) is not None
        self.failed |= failed
        return not failed

    def _is_stuck(self, run_dir: Path) -> bool:
        """Fail a trial whose last starts in this submission all began where it still is.

        One that SLURM took the node from, not at the time limit, and that left it in order, says
        nothing about the trial: others' jobs, or an administrator, may do that again and again.
        """
        starts: list[Mapping[str, Any]] = []
        for line in submissions.job_lines(run_dir):
            if line.get("name") == self.folder.name and "position" in line:
                starts.append(line)
            elif line.get("name") == self.folder.name and "excused" in line and starts:
                starts.pop()
        now = RunDir(run_dir).position()
        if len(starts) < MOST_STARTS or any(
            line["position"] != now for line in starts[-MOST_STARTS:]
        ):
            return False
        self._fail(
            run_dir,
            f"{MOST_STARTS} starts in a row got no further than epoch {now[0]}, step {now[1]}; "
            "the job's time limit, or "
            f"the time it is given to checkpoint, is too short (see {self.folder})",
        )
        return True

    def _fail(self, run_dir: Path, error: str) -> None:
        """Make the journal say so where the worker could not."""
        self.failed = True
        offset = next(entry.journal for entry in self.entries if entry.run_dir == run_dir)
        try:
            with RunDir(run_dir).lease():
                if failure(run_dir, offset) is None:
                    event = {"event": "failed", "time": round(time.time(), 3), "error": error}
                    line = json.dumps({**event, "traceback": None}, ensure_ascii=False)
                    append_line(run_dir / rundir.JOURNAL, line)
        except (lease.Busy, OSError) as problem:
            print(f"{run_dir.name}: cannot be marked as failed: {problem}", flush=True)

    def _environments(self, trials: int) -> list[dict[str, str]]:
        """One a worker: its GPU of those that SLURM gave, its share of the CPUs."""
        gpus = [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
        if (processes := wanted(self.entries[0].run_dir).processes) > 1:
            node_count = int(os.environ.get("SLURM_JOB_NUM_NODES", 1))
            threads = os.environ.get("RM_THREADS") or str(
                max(1, self.job.cpus * node_count // processes)
            )
            rendezvous = str(nodes.rendezvous_path(self.folder))
            shared = {
                **thread_environment(threads),
                process_group.NODES: str(node_count),
                process_group.RENDEZVOUS: rendezvous,
            }
            if node_count > 1:
                shared[process_group.ADDRESS] = _own_address()
            return [{**shared, "CUDA_VISIBLE_DEVICES": ",".join(gpus)}]
        workers = self.side_by_side * max(1, len(gpus))
        threads = os.environ.get("RM_THREADS") or str(max(1, self.job.cpus // workers))
        shared = thread_environment(threads)
        count = min(workers, trials)
        return [
            {**shared, "CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)] if gpus else ""}
            for i in range(count)
        ]

    def _requeue(self, left: Sequence[Path]) -> None:
        deadline = time.monotonic() + REQUEUE_SECONDS
        while True:
            try:
                done = jobs.requeue(self.job, self.folder.name)
            except SlurmError as error:
                print(f"not requeued yet: {error}", flush=True)
                if time.monotonic() > deadline:
                    return
                time.sleep(5)
            else:
                break
        print(f"{len(left)} of {len(self.entries)} left: {done.words}", flush=True)
        if self.warned == {signal.SIGTERM} and not done.at_limit:
            for run_dir in self.in_order.intersection(left):
                self._note(run_dir, {"excused": self.job.restarts})

    def _note(self, run_dir: Path, more: Mapping[str, Any]) -> None:
        job = JobRef(self.job.id, self.folder.name, self.job.cluster)
        submissions.note(run_dir, job, more)

    # what the pool tells, into the job's log

    def on_start(self, run_dir: Path) -> None:
        """A start is noted with where it begins: three from the same place are too many."""
        gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        start = {
            "restart": self.job.restarts,
            "node": self.job.node,
            "gpus": gpus,
            "position": RunDir(run_dir).position(),
        }
        self.begun.add(run_dir)
        self._note(run_dir, start)
        print(f"{run_dir.name}: on {self.job.node}, start {self.job.restarts + 1}", flush=True)

    def on_death(self, run_dir: Path, how: str) -> None:
        print(f"{run_dir.name}: {how}; retrying on another worker", flush=True)

    def on_wait(self, run_dir: Path, for_whom: str) -> None:
        print(f"{run_dir.name}: waiting: {for_whom}", flush=True)

    def on_end(self, run_dir: Path, ended: Outcome) -> None:
        print(
            f"{run_dir.name}: {ended.status}{f': {ended.error}' if ended.error else ''}",
            flush=True,
        )

    def tick(self) -> None:
        pass


def _own_address() -> str:
    """How the other nodes reach this one: as SLURM does."""
    address = os.environ.get("SLURM_LAUNCH_NODE_IPADDR")  # of the node srun runs on, a job's first
    if address:
        return address
    node = cli.ask("scontrol", "--oneliner", "show", "node", os.environ["SLURMD_NODENAME"])
    return cli.fields(node)["NodeAddr"]


def main() -> int:
    """The command."""
    folder, side_by_side = sys.argv[1:3]
    if os.environ.get("SLURM_PROCID", "0") != "0":
        return nodes.serve(nodes.rendezvous_path(Path(folder)))
    return Task(Path(folder), int(side_by_side), SlurmJobContext.read()).run()


if __name__ == "__main__":
    sys.exit(main())
