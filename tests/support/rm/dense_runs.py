"""A process that has imported OpenMMLab once and forks trainings, since each import takes longer
than these trainings do.

    python -m tests.support.rm.dense_runs      a JSON object a line, each answered with one

    words      of `python -m rm.train`
    kill       [epoch, step]: the first process kills itself before that step
    processes  that train together; 0: one, which is not waited for
    readers    RM_LOADER_WORKERS
The answer: exit statuses by rank, or minus the signal; of one that is not waited for its pid.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.support.rm.dense import SAMPLES
from tests.support.trials import ROOT


class Trainings:
    """The process, from outside."""

    def __enter__(self) -> "Trainings":
        environment = {**os.environ, "RM_DATA_DIR": str(SAMPLES), "PYTHONPATH": str(ROOT)}
        environment |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def train(
        self, folder: Path, kill: str = "0,0", processes: int = 1, readers: int = 0
    ) -> list[int]:
        """`rm.train` of the trial in a folder, with a checkpoint before each step."""
        words = [str(folder / "trial.json"), str(folder), "--checkpoint-seconds", "0"]
        request = {
            "words": words,
            "kill": [int(number) for number in kill.split(",")],
            "processes": processes,
            "readers": readers,
        }
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer: list[int] = json.loads(self.process.stdout.readline())
        return answer


def _child(request: Mapping[str, Any], rank: int, port: int) -> None:
    """Never returns."""
    count = request["processes"]
    os.environ["RM_LOADER_WORKERS"] = str(request["readers"])
    if count > 1:
        group = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_PORT": port}
        os.environ.update({key: str(value) for key, value in group.items()})
        os.environ["MASTER_ADDR"] = "127.0.0.1"
    from rm import train
    from rm.trainer import Trainer

    original = Trainer.train_step

    def train_step(self: Trainer) -> Any:
        if [self.epoch, self.step] == request["kill"] and rank == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self)

    Trainer.train_step = train_step  # type: ignore[method-assign]
    status = 99
    try:
        os.dup2(2, 1)
        status = train.main(request["words"])
    finally:
        os._exit(status)


def main() -> None:
    import mmdet.models  # noqa: F401
    import mmseg.models  # noqa: F401
    import torch

    torch.set_num_threads(1)
    for line in sys.stdin:
        request = json.loads(line)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        children = []
        for rank in range(max(1, request["processes"])):
            child = os.fork()
            if child == 0:
                _child(request, rank, port)
            children.append(child)
        if request["processes"]:
            ends = [os.waitpid(child, 0)[1] for child in children]
            children = [os.waitstatus_to_exitcode(end) for end in ends]
        print(json.dumps(children), flush=True)


if __name__ == "__main__":
    from rm.dense import ops_stub

    ops_stub.install()
    main()
