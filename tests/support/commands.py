"""`python launch/run.py` as a person runs it, and what it leaves on disk."""

import json
import os
import subprocess
import sys
import time

from launch.runs.rundir import RunDir
from tests.support.trials import PATIENCE, ROOT


def command(*words, **options):
    """`python launch/run.py ...` with two workers and no tracking server in the way of what is
    tested.
    """
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", **options.pop("environment", {})}
    words = [sys.executable, str(ROOT / "launch" / "run.py"), *map(str, words)]
    options = {
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
        "env": environment,
        **options,
    }
    return subprocess.Popen(words, **options)


def lines_said(err: str) -> list[str]:
    """Standard error without the plain line a minute, of which a slow machine prints more."""
    return [line for line in err.splitlines() if not line.startswith("[")]


def run(*words, **options):
    process = command(*words, **options)
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err


def trials(out):
    return json.loads(out)["trials"]


def journal(results, trial):
    return [event["event"] for event in RunDir(results / "runs" / trial).events()[0]]


def wait_for(condition, process, seconds=PATIENCE):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def running_pids(results):
    """The worker of each run directory that is leased."""
    found = {}
    for lease in (results / "runs").glob("*/lease.json"):
        try:
            found[lease.parent.name] = json.loads(lease.read_text())["pid"]
        except (OSError, ValueError):
            continue
    return found


def mlflow_records(results):
    """Trial id -> what MLflow knows of it, points included."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{results / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("recursivemix")
    records = {}
    for found in client.search_runs([experiment.experiment_id]):
        tags = {k: v for k, v in found.data.tags.items() if not k.startswith("mlflow.")}
        assert tags["trial_id"] not in records, "one MLflow run a trial"
        points = {
            name: [
                (m.step, m.value, m.timestamp)
                for m in client.get_metric_history(found.info.run_id, name)
            ]
            for name in found.data.metrics
        }
        info = found.info
        records[tags["trial_id"]] = (
            tags,
            found.data.params,
            points,
            info.status,
            info.run_name,
            info.start_time,
            info.end_time,
        )
    return records
