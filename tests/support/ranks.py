"""An undisturbed training by several processes: forked off this one, which has torch already.

    python -m tests.support.ranks RUN_DIR COUNT THREADS

They run the command `rm.train` with the environment that `torch.distributed.run` would give them,
without an import of torch for each and one for the agent.
"""

import os
import subprocess
import sys
import traceback
from pathlib import Path

import torch

from launch.worker.process_group import free_port
from rm.train import main
from tests.support.trials import ROOT


def train_together(run_dir: Path, count: int, threads: int = 1) -> str:
    """Train run_dir's trial.json on the CPU by so many processes; returns what the first of them
    printed.
    """
    if threads == 1:
        _fork_all(run_dir, count, threads)
    else:  # a team of OpenMP's does not survive a fork: from a process that has none
        words = [sys.executable, "-m", "tests.support.ranks", run_dir, count, threads]
        subprocess.run([*map(str, words)], cwd=ROOT, check=True)
    return _log(run_dir, 0).read_text(encoding="utf-8")


def _log(run_dir: Path, rank: int) -> Path:
    return run_dir / f"rank{rank}.txt"


def _fork_all(run_dir: Path, count: int, threads: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    port, started = free_port(), []
    for rank in range(count):
        if (pid := os.fork()) == 0:
            _be_rank(run_dir, rank, count, threads, port)
        started.append(pid)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in started]
    said = [_log(run_dir, rank).read_text(encoding="utf-8") for rank in range(count)]
    assert not any(codes), (codes, said)


def _be_rank(run_dir: Path, rank: int, count: int, threads: int, port: int) -> None:
    code = 70
    try:
        log = os.open(_log(run_dir, rank), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.stdout = os.fdopen(1, "w", closefd=False)  # the test's own may be captured
        sys.stderr = os.fdopen(2, "w", closefd=False)
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count}
        place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ |= {name: str(value) for name, value in place.items()}
        torch.cuda.is_available = lambda: False  # too late to hide GPUs by a variable
        torch.set_num_threads(threads)
        code = main([str(run_dir / "trial.json"), str(run_dir)])
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _fork_all(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
