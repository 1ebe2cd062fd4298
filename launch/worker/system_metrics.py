"""How busy the machine was while a trial ran, where asked for: a line every few seconds in
`system.jsonl`.

RM_SYSTEM_METRICS=SECONDS asks for it, in every worker that has it in its environment, whatever
started that. It is about the machine and no part of the trial: no number of the training depends
on it. Names are those that MLflow's own monitor uses.
"""

import argparse
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from launch.runs import rundir
from launch.runs.lease import Lost
from launch.runs.rundir import RunDir
from rm.files import UNGUARDED, Permit, append_line

VARIABLE = "RM_SYSTEM_METRICS"
DEFAULT_SECONDS = 10.0
LEAST_SECONDS = 0.1


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
def sampled(run_dir: Path, permit: Permit = UNGUARDED) -> Iterator[None]:
    """Sample while the block runs, from a thread that sleeps in between; what cannot be measured
    is left out.
    """
    seconds = asked_for()
    if seconds is None:
        yield
        return
    done = threading.Event()
    thread = threading.Thread(target=_sample, args=(run_dir, seconds, done, permit), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(timeout=5)


def _sample(run_dir: Path, seconds: float, done: threading.Event, permit: Permit) -> None:
    try:
        machine = _Machine()
    except ImportError as error:
        print(f"no system metrics: {error}", file=sys.stderr)
        return
    here = RunDir(run_dir)
    while not done.wait(seconds):
        values = {**machine.sample(), **gpus()}
        if done.is_set() or here.has(rundir.RESULT):
            return  # a finished run's record is not touched again
        line = json.dumps({"time": round(time.time(), 3), **values})
        try:
            permit.check()
            append_line(here.file(rundir.SYSTEM), line, durable=False)
        except OSError:
            continue  # a file system that is away for a while must not end a training
        except Lost:
            return


class _Machine:
    """Processors and memory, as psutil reads them; sizes in MB of a million bytes, as MLflow
    counts them.
    """

    def __init__(self) -> None:
        # Here and not above: a bare GPU node trains without psutil, which is only for this.
        import psutil

        self.psutil, self.process = psutil, psutil.Process()
        self.process.cpu_percent()  # each call is about the time since the one before
        psutil.cpu_percent()

    def sample(self) -> dict[str, float]:
        memory = self.psutil.virtual_memory()
        used = memory.total - memory.available
        values = {
            "process_cpu_percentage": self.process.cpu_percent(),
            "cpu_utilization_percentage": self.psutil.cpu_percent(),
            "system_memory_usage_megabytes": used / 1e6,
            "system_memory_usage_percentage": 100 * used / memory.total,
            "process_memory_usage_megabytes": self.process.memory_info().rss / 1e6,
        }
        return {name: round(value, 1) for name, value in values.items()}


def gpus() -> dict[str, float]:
    """Of each GPU that this process may use, in its own order; nothing where there is no driver,
    and without what a GPU does not tell.
    """
    try:
        import pynvml
    except ImportError:
        return {}
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return {}
    values: dict[str, float] = {}
    try:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        every = range(pynvml.nvmlDeviceGetCount())
        chosen = map(str, every) if visible is None else visible.split(",")
        names = [name.strip() for name in chosen if name.strip() not in ("", "-1")]
        for i, name in enumerate(names):
            values |= {f"gpu_{i}_{key}": value for key, value in _gpu(pynvml, name).items()}
    except pynvml.NVMLError:
        return values  # a GPU that fell off the bus must not end a training
    finally:
        pynvml.nvmlShutdown()
    return values


def _gpu(nvml: Any, name: str) -> dict[str, float]:
    """Of one GPU, by index or by UUID as CUDA_VISIBLE_DEVICES names it."""
    if name.isdigit():
        handle = nvml.nvmlDeviceGetHandleByIndex(int(name))
    else:
        handle = nvml.nvmlDeviceGetHandleByUUID(name)
    values = {}
    with suppress(nvml.NVMLError):
        busy = nvml.nvmlDeviceGetUtilizationRates(handle).gpu
        values["utilization_percentage"] = float(busy)
    with suppress(nvml.NVMLError):
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        values["memory_usage_megabytes"] = round(memory.used / 1e6, 1)
        values["memory_usage_percentage"] = round(100 * memory.used / memory.total, 1)
    with suppress(nvml.NVMLError):
        values["power_usage_watts"] = round(nvml.nvmlDeviceGetPowerUsage(handle) / 1000, 2)
    return values
