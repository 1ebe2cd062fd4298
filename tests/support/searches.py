"""A search of a few seconds, and what is asked of searches."""

import json
import time
from pathlib import Path

from launch.runs.rundir import RunDir
from tests.support.trials import PATIENCE

SEARCH = """
    # a search of a few seconds
    title: "A search of a few seconds"
    metric: {name: top1_error, select: last}
    seeds: [0, 1]
    trial:
      dataset: {name: digits, size: 16, limit: 120, test_limit: 90}
      backbone: {name: resnet8, width: 8}
      method: recursive_mix
      train: {epochs: 8, batch_size: 8}
      optimizer: {name: sgd, lr: 0.05}
      schedule: {name: cosine}
    search:
      space:
        method.alpha: {uniform: [0.1, 1.0]}
        optimizer.lr: {loguniform: [0.0001, 0.5]}
      held_out: 200
      samples: 6
      scheduler: {name: asha, grace_epochs: 2, reduction_factor: 2}
    rows:
      - {row: Baseline, method: baseline}
    figures:
      search: {draw: search}
"""


def decisions(results):
    """What was decided, in order, without the times."""
    lines = (
        next((results / "searches").glob("*/decisions.jsonl"))
        .read_text(encoding="utf-8")
        .splitlines()
    )
    return [
        {key: value for key, value in json.loads(line).items() if key != "time"} for line in lines
    ]


def events(results, trial):
    return [event["event"] for event in RunDir(results / "runs" / trial).events()[0]]


def wait_for(condition, process):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def processes_of(text):
    """Command lines of all processes that mention a text in their environment or arguments."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (
                text.encode()
                in (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
            ):
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return [line for line in found if line.strip()]


def wait_until_gone(text):
    deadline = time.monotonic() + PATIENCE
    while processes_of(text):
        assert time.monotonic() < deadline, processes_of(text)
        time.sleep(0.1)
