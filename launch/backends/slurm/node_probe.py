"""What `doctor --submit` runs on a node: it writes down what it finds there, then which signals
reach it.

python -m launch.backends.slurm.node_probe FOLDER DATA_FOLDER
"""

import json
import os
import platform
import signal
import sys
import time
from pathlib import Path
from typing import Any

from launch.backends import checks

MOST_SECONDS = 540.0
_SIGNALS = (signal.SIGUSR2, signal.SIGTERM)


def main() -> int:
    folder, data = Path(sys.argv[1]), Path(sys.argv[2])
    received: list[int] = []

    def on_signal(number: int, frame: object) -> None:
        received.append(number)
        _write(folder, signal.Signals(number).name.removeprefix("SIG"), {"time": time.time()})

    for number in _SIGNALS:
        signal.signal(number, on_signal)
    _write(folder, "node", _node(folder, data))
    _write(folder, "python", checks.run_python(checks.PYTHON))
    deadline = time.monotonic() + MOST_SECONDS
    while (
        received.count(signal.SIGTERM) < 2 and time.monotonic() < deadline
    ):  # the second one comes with the requeueing
        time.sleep(0.2)
    return 0


def _node(folder: Path, data: Path) -> dict[str, Any]:
    clock = folder / "clock"
    clock.write_text("")
    try:
        hello = (folder / "hello").read_text(encoding="utf-8")
    except OSError as error:
        hello = str(error)
    return {
        "host": os.environ.get("SLURMD_NODENAME") or platform.node(),
        "cpus": len(os.sched_getaffinity(0)),
        "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "skew": checks.clock_skew(clock),
        "hello": hello,
        "data": data.is_dir(),
    }


def _write(folder: Path, name: str, found: dict[str, Any]) -> None:
    """Whole or not at all: the other side reads as soon as it is there."""
    aside = folder / f"{name}.{os.getpid()}.tmp"
    aside.write_text(json.dumps(found), encoding="utf-8")
    aside.replace(folder / f"{name}.json")


if __name__ == "__main__":
    sys.exit(main())
