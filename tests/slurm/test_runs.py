"""Trials on the cluster against undisturbed ones: the same numbers, the right devices, failures
told, nothing lost.
"""

import json
import os
import sqlite3

import pytest

from launch.spec.load import load_spec
from launch.spec.trial import Trial
from tests.support import inprocess
from tests.support.slurm.cluster import GPUS_PER_NODE, NODES
from tests.support.slurm.launcher import Launcher, journal, starts
from tests.support.trials import ROOT, deterministic

pytestmark = pytest.mark.cluster
NOWHERE = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}


@pytest.mark.usefixtures("tracked")
def test_the_quickstart_over_three_nodes_with_the_tracking_store_away(
    launcher: Launcher, tmp_path
):
    """18 trials, three a job, on six GPUs: records equal those of this process; sync brings them
    all, each once.
    """
    spec = (ROOT / "experiments" / "quickstart.yaml", "--profile", "smoke", "--seeds", "0,1,2")
    err = launcher.submit(*spec, "--slurm", "trials_per_job=3", "--wait", **NOWHERE)
    assert "18 finished" in err
    assert "nothing is lost" in err
    local = tmp_path / "local"
    inprocess.train(spec[0], local, profile="smoke", seeds=[0, 1, 2])
    ours, theirs = (
        {d.name: deterministic(d) for d in (results / "runs").iterdir()}
        for results in (launcher.results, local)
    )
    assert len(ours) == 18
    assert ours == theirs

    assert_gpus_were_not_shared(launcher)
    code, _, err = launcher.run("sync")
    assert code == 0, err
    with sqlite3.connect(launcher.results / "mlflow.db") as store:
        found = [
            value for (value,) in store.execute("select value from tags where key = 'trial_id'")
        ]
    assert sorted(found) == sorted(ours)


def assert_gpus_were_not_shared(launcher: Launcher) -> None:
    """Each task saw one GPU of its node, by its number there, and no two at a time the same."""
    spans = []
    for run_dir in launcher.run_dirs:
        (start,) = starts(run_dir)
        times = [
            json.loads(line)["time"]
            for line in (run_dir / "journal.jsonl").read_text().splitlines()
        ]
        spans.append((start["node"], start["gpus"], min(times), max(times)))
    assert {node for node, *_ in spans} == set(NODES)
    assert {gpu for _, gpu, *_ in spans} <= {str(i) for i in range(GPUS_PER_NODE)}
    for i, (node, gpu, begin, end) in enumerate(spans):
        for other_node, other_gpu, other_begin, other_end in spans[:i]:
            overlap = begin < other_end and other_begin < end
            assert not (overlap and (node, gpu) == (other_node, other_gpu))


def test_trials_that_do_not_fit_on_a_gpu_together_are_refused(launcher: Launcher):
    """The pretend GPUs have 8000 MiB free, says a program that answers as nvidia-smi would; such a
    trial once needed 3500.
    """
    tools = launcher.folder / "tools"
    tools.mkdir()
    (tools / "nvidia-smi").write_text("#!/bin/sh\necho 8000\n")
    (tools / "nvidia-smi").chmod(0o755)
    path = {"PATH": f"{tools}:{os.environ['PATH']}"}
    spec = launcher.spec(seeds=[0, 1], epochs=3)
    words = (
        "--slurm",
        "cpus_per_gpu=4",
        "--slurm",
        "trials_per_job=2",
        "--trials-per-gpu",
        "2",
        "--wait",
    )
    earlier = Trial({**load_spec(spec).trials[0].values, "seed": 9})
    folder = launcher.results / "runs" / earlier.id
    folder.mkdir(parents=True)
    (folder / "trial.json").write_text(earlier.to_json())

    def needed(peak: float) -> None:
        (folder / "journal.jsonl").write_text(
            json.dumps(
                {
                    "event": "epoch",
                    "time": 0.0,
                    "epoch": 1,
                    "epoch_seconds": 1.0,
                    "peak_memory_mib": peak,
                }
            )
            + "\n"
        )

    needed(3500.0)
    code, _, err = launcher.run(spec, "--backend", "slurm", *words, **path)
    assert code == 1, err
    assert "2 trials do not fit on GPU 0 of " in err
    assert (
        "each needs 4450 MiB (3500 at its peak, and CUDA's own), 8000 MiB are free; "
        "--trials-per-gpu 1 would fit" in err
    )
    both = [run_dir for run_dir in launcher.run_dirs if run_dir != folder]
    assert [journal(run_dir) for run_dir in both] == [["failed"]] * 2
    needed(500.0)
    code, _, err = launcher.run("retry", spec, "--backend", "slurm", *words, **path)
    assert code == 0, err
    assert [journal(run_dir)[-1] for run_dir in both] == ["finished"] * 2
    pids = {json.loads((run_dir / "provenance.json").read_text())[-1]["pid"] for run_dir in both}
    assert len(pids) == 2, "side by side: each had a process of its own"


def test_a_trial_that_raises_is_told_and_the_others_finish(launcher: Launcher):
    """A learning rate of 1e30 diverges; exit status 1; the same command tries it again, and it
    alone.
    """
    spec = launcher.spec(seeds=[0, 1], epochs=3)
    text = spec.read_text().replace(
        "  - {row: RM,", "  - {row: Wild, optimizer.lr: 1.0e+30, method: baseline}\n  - {row: RM,"
    )
    spec.write_text(text)
    words = (
        spec,
        "--backend",
        "slurm",
        "--slurm",
        "cpus_per_gpu=4",
        "--slurm",
        "trials_per_job=4",
        "--wait",
    )
    code, _, err = launcher.run(*words)
    assert code == 1, err
    assert "the loss is not finite at step" in err
    assert "2 failed, 2 finished" in err or "2 finished, 2 failed" in err
    failed = [run_dir for run_dir in launcher.run_dirs if not (run_dir / "result.json").exists()]
    assert all(journal(run_dir)[-1] == "failed" for run_dir in failed)
    assert all(
        "Diverged" in json.loads((d / "journal.jsonl").read_text().splitlines()[-1])["traceback"]
        for d in failed
    )
    code, _, err = launcher.run(*words)
    assert code == 1
    assert "running 2 of 4 trials; 2 finished already" in err
    assert [len(starts(run_dir)) for run_dir in failed] == [2, 2]
    assert sum(len(starts(run_dir)) for run_dir in launcher.run_dirs) == 6
