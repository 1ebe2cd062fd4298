"""How busy the machine was while a trial ran, where asked for: a line every few seconds in
`system.jsonl`.

RM_SYSTEM_METRICS=SECONDS asks for it, in every worker that has it in its environment, whatever
started that. It is about the machine and no part of the trial: no number of the training depends
on it. Names are those that MLflow's own monitor uses.
"""

import argparse
import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from launch.runs import rundir
from launch.runs.rundir import RunDir

VARIABLE = "RM_SYSTEM_METRICS"
DEFAULT_SECONDS = 10.0
LEAST_SECONDS = 0.1

_GPU_FIELDS = ("utilization.gpu", "memory.used", "memory.total", "power.draw")


def seconds(text: str) -> float:
    """An argument's type: how often to sample."""
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not LEAST_SECONDS <= found <= 3600:
        raise argparse.ArgumentTypeError(
            f"a number of seconds from {LEAST_SECONDS:g} to 3600, found '{text}'"
        )
    return found


def ask(every: float | None) -> None:
    """Have all workers that this process starts sample, where `every` is given."""
    if every is not None:
        os.environ[VARIABLE] = f"{every:g}"


def asked_for() -> float | None:
    """Seconds between samples, None where nobody asked or what was asked for is no such number."""
    try:
        seconds = float(os.environ.get(VARIABLE, ""))
    except ValueError:
        return None
    return max(seconds, LEAST_SECONDS) if seconds > 0 else None


@contextmanager
def sampled(run_dir: Path) -> Iterator[None]:
    """Sample while the block runs, from a thread that sleeps in between; what cannot be measured
    is left out.
    """
    seconds = asked_for()
    if seconds is None:
        yield
        return
    done = threading.Event()
    thread = threading.Thread(target=_sample, args=(run_dir, seconds, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(timeout=5)


def _sample(run_dir: Path, seconds: float, done: threading.Event) -> None:
    before = _Clock()
    while not done.wait(seconds):
        now = _Clock()
        values = {**now.since(before), **_memory(), **gpus()}
        before = now
        if done.is_set() or RunDir(run_dir).has(rundir.RESULT):
            return  # a finished run's record is not touched again
        try:
            with RunDir(run_dir).file(rundir.SYSTEM).open("a", encoding="utf-8") as file:
                file.write(json.dumps({"time": round(time.time(), 3), **values}) + "\n")
        except OSError:
            continue  # a file system that is away for a while must not end a training


class _Clock:
    """Processor time until now: this machine's, busy and in all, and this process's with its
    children.
    """

    def __init__(self) -> None:
        self.wall = time.monotonic()
        spent = os.times()
        self.own = spent.user + spent.system + spent.children_user + spent.children_system
        try:
            first = Path("/proc/stat").read_text(encoding="ascii").partition("\n")[0]
            ticks = [
                int(part) for part in first.split()[1:9]
            ]  # user nice system idle iowait irq softirq steal
        except (OSError, ValueError):
            ticks = []
        self.all, self.idle = sum(ticks), sum(ticks[3:5])

    def since(self, before: "_Clock") -> dict[str, float]:
        values = {
            "process_cpu_percentage": 100
            * (self.own - before.own)
            / max(self.wall - before.wall, 1e-9)
        }
        if self.all > before.all:
            busy = 1 - (self.idle - before.idle) / (self.all - before.all)
            values["cpu_utilization_percentage"] = 100 * busy
        return {name: round(value, 1) for name, value in values.items()}


def _memory() -> dict[str, float]:
    """The machine's memory in use, and this process's resident memory; in MB of a million bytes,
    as MLflow counts them.
    """
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        kib = {line.partition(":")[0]: int(line.split()[1]) for line in lines}
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return {}
    used = kib["MemTotal"] - kib["MemAvailable"]
    values = {
        "system_memory_usage_megabytes": used * 1024 / 1e6,
        "system_memory_usage_percentage": 100 * used / kib["MemTotal"],
        "process_memory_usage_megabytes": pages * os.sysconf("SC_PAGE_SIZE") / 1e6,
    }
    return {name: round(value, 1) for name, value in values.items()}


def gpus() -> dict[str, float]:
    """Of each GPU that this process may use, in its own order; nothing where there is no
    driver.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1"):
        return {}
    command = [
        "nvidia-smi",
        f"--query-gpu={','.join(_GPU_FIELDS)}",
        "--format=csv,noheader,nounits",
    ]
    try:
        listed = subprocess.run(
            [*command, *([f"--id={visible}"] if visible else [])],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    values: dict[str, float] = {}
    for i, line in enumerate(line for line in listed.splitlines() if line.strip()):
        busy, used, total, watts = (_number(part) for part in [*line.split(","), "", "", ""][:4])
        mib = 1024**2 / 1e6
        found = {
            "utilization_percentage": busy,
            "memory_usage_megabytes": round(used * mib, 1) if used is not None else None,
            "memory_usage_percentage": round(100 * used / total, 1)
            if used is not None and total
            else None,
            "power_usage_watts": watts,
        }
        values |= {f"gpu_{i}_{name}": value for name, value in found.items() if value is not None}
    return values


def _number(text: str) -> float | None:
    """A field of nvidia-smi; None for [N/A]."""
    try:
        return float(text)
    except ValueError:
        return None
