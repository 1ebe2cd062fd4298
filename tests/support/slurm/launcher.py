"""Launchers that talk to a real cluster, and what their trials leave behind."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

from launch.runs.rundir import RunDir
from tests.support import processes
from tests.support.slurm.cluster import Cluster, wait_until
from tests.support.trials import PATIENCE, ROOT

SPEC = """
    # one trial a seed; long enough to be disturbed
    title: "Trials to disturb"
    seeds: SEEDS
    trial:
      dataset: {name: digits, size: 16, limit: 70, test_limit: 60}
      backbone: {name: resnet8, width: 8}
      train: {epochs: EPOCHS, batch_size: 16}
      optimizer: {name: sgd, lr: 0.05, momentum: 0.9}
      schedule: {name: cosine}
    rows:
      - {row: RM, method: {name: recursive_mix, alpha: 0.5, omega: 0.5}}
"""


class Launcher:
    """`python launch/run.py ...` against a cluster, with a results folder and a spec of its
    own.
    """

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster, self.folder = cluster, folder
        self.results = folder / "results"
        self.environment = {
            **os.environ,
            **cluster.environment,
            "RM_RESULTS_DIR": str(self.results),
            # As the undisturbed runs have: the number of threads is part of a CPU run's bits.
            "RM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
        }
        self.environment.pop("MLFLOW_TRACKING_URI", None)

    def spec(self, *, seeds: list[int], epochs: int, **more: str) -> Path:
        """`more`: text that is replaced."""
        path = self.folder / "disturbed.yaml"
        text = (
            textwrap.dedent(SPEC)
            .lstrip("\n")
            .replace("SEEDS", str(seeds))
            .replace("EPOCHS", str(epochs))
        )
        for old, new in more.items():
            assert old in text, old
            text = text.replace(old, new)
        path.write_text(text, encoding="utf-8")
        return path

    def start(self, *words: object, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(ROOT / "launch" / "run.py"), *map(str, words)],
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: object, **environment: str) -> tuple[int, str, str]:
        process = self.start(*words, **environment)
        out, err = process.communicate(timeout=PATIENCE)
        return process.returncode, out, err

    def submit(self, spec: Path, *words: object, **environment: str) -> str:
        """Run `--backend slurm`; returns what it said."""
        options = ("--backend", "slurm", "--slurm", "cpus_per_gpu=4", *words)
        code, _, err = self.run(spec, *options, **environment)
        assert code == 0, err
        return err

    @property
    def run_dirs(self) -> list[Path]:
        """The run directories, by seed."""
        return sorted(
            (self.results / "runs").iterdir(),
            key=lambda d: json.loads((d / "trial.json").read_text())["seed"],
        )

    def logs(self) -> str:
        """What tasks said and SLURM's daemons thought, for an assertion that failed."""
        files = [*self.results.glob("slurm/*/*.out"), *self.results.glob("runs/*/jobs.jsonl")]
        return "\n".join(f"== {path}\n{path.read_text()}" for path in files) + self.cluster.log()

    def wait_until(self, condition, what: str, seconds: float = PATIENCE) -> None:
        try:
            wait_until(condition, what, seconds)
        except TimeoutError as error:
            raise AssertionError(f"{error}\n{self.logs()}") from error

    def preempt(self) -> None:
        """A job of a higher partition takes all nodes; returns once SLURM has told ours to go."""
        urgent = (
            "--partition=urgent",
            "--nodes=3",
            "--exclusive",
            "--output=/dev/null",
            "--wrap=true",
        )
        self.cluster.ask("sbatch", *urgent)
        running = ("squeue", "--noheader", "--states=RUNNING", "--partition=main")
        self.wait_until(lambda: not self.cluster.ask(*running), "preempted")

    def freeze(self, run_dir: Path, epochs: int = 2) -> int:
        """Stop a worker (SIGSTOP) once it is in the midst of training, however fast this machine
        is; returns its process.
        """
        before = journal(run_dir).count("epoch")
        self.wait_until(
            lambda: (
                worker_pid(run_dir) is not None
                and journal(run_dir).count("epoch") >= before + epochs
            ),
            "it trains",
        )
        pid = worker_pid(run_dir)
        assert pid is not None
        processes.freeze(pid)
        assert not (run_dir / "result.json").exists()
        return pid

    def wait_finished(self, run_dirs: list[Path], seconds: float = PATIENCE) -> None:
        """Until each has its result and, written after it, the last line of its journal."""
        self.wait_until(
            lambda: all(
                (d / "result.json").exists() and "finished" in journal(d) for d in run_dirs
            ),
            "all trials finished",
            seconds,
        )


def journal(run_dir: Path) -> list[str]:
    """The names of a run's events."""
    return [event["event"] for event in RunDir(run_dir).events()[0]]


def starts(run_dir: Path) -> list[dict]:
    """The starts that tasks noted: {"id", "restart", "node", "gpus", "position", ...}."""
    lines = (run_dir / "jobs.jsonl").read_text(encoding="utf-8").splitlines()
    return [line for line in map(json.loads, lines) if "position" in line]


def worker_pid(run_dir: Path) -> int | None:
    """Who holds the lease."""
    try:
        return int(json.loads((run_dir / "lease.json").read_text())["pid"])
    except (OSError, ValueError):
        return None


def real(program: str) -> str:
    return shutil.which(program) or program


def wrapped_sbatch(launcher: Launcher, script: str) -> dict[str, str]:
    """A PATH on which `sbatch` is `script`, which may call the real one."""
    folder = launcher.folder / "bin"
    folder.mkdir(exist_ok=True)
    path = folder / "sbatch"
    path.write_text(f"#!/bin/bash\ncalls={folder}/calls; echo x >> $calls\n{script}\n")
    path.chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}
