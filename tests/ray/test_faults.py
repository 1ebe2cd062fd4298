"""What can die dies: worker, node, driver. Finished trials are not run again, the others end with
the same numbers.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from launch.spec.load import load_spec
from tests.support.backends import Backend
from tests.support.commands import lines_said, mlflow_records
from tests.support.processes import is_gone
from tests.support.ray_cluster import Cluster, children
from tests.support.trials import PATIENCE, ROOT

LONG = {"epochs: 2": "epochs: 80", "[0, 1]": "[0]"}
OFTEN = {"RM_CHECKPOINT_SECONDS": "0.2"}
WORKERS = ("--workers", 2)


@pytest.mark.cluster
def test_a_killed_worker_and_a_killed_node_lose_nothing(write_spec, results, reference):
    """Two nodes of one CPU each. A worker dies, then a whole node; one that joins takes its
    place.
    """
    path = write_spec(**LONG)
    with Cluster(cpus=1) as cluster:
        second = cluster.add(cpus=1)
        backend = Backend("ray", results, ["--backend", "ray", "--address", cluster.address])
        process = backend.start(path, *WORKERS, environment=OFTEN)
        backend.wait_for_epochs(process, trials=2, checkpoint=True)
        below = {pid for pid, _ in children(second.process.pid)}
        there = next(trial for trial, pid in backend.leased().items() if pid in below)
        here = next(trial for trial, pid in backend.leased().items() if pid not in below)
        frozen = backend.leased()[there]
        os.kill(frozen, signal.SIGSTOP)  # neither may end early, however fast this machine is
        os.kill(backend.leased()[here], signal.SIGKILL)
        backend.wait(
            lambda: "resumed" in backend.events(here) and here in backend.leased(), process
        )
        busy = backend.leased()[here]
        os.kill(busy, signal.SIGSTOP)
        os.kill(second.raylet(), signal.SIGKILL)
        os.kill(frozen, signal.SIGCONT)
        third = cluster.add(cpus=1)
        backend.wait(lambda: "resumed" in backend.events(there), process)
        provenance = json.loads((results / "runs" / there / "provenance.json").read_text())
        assert provenance[-1]["pid"] in {pid for pid, _ in children(third.process.pid)}, (
            "on the node that joined"
        )
        assert "finished" not in backend.events(here)
        os.kill(busy, signal.SIGCONT)
        _, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, err
        assert err.count("retrying on another worker") >= 2
    assert backend.numbers() == reference(path).numbers()


@pytest.mark.usefixtures("tracked")
@pytest.mark.cluster
def test_a_cluster_that_loses_its_head_is_left_and_another_one_goes_on(
    write_spec, results, reference
):
    """Ray itself would end the command after a minute, with a line about GCS."""
    path = write_spec(**LONG)
    with Cluster(cpus=2) as cluster:
        backend = Backend("ray", results, ["--backend", "ray", "--address", cluster.address])
        process = backend.start(path, *WORKERS, environment=OFTEN)
        backend.wait_for_epochs(process, trials=2, checkpoint=True)
        stopped = list(backend.leased().values())
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)  # neither may end early
        cluster.nodes[0].stop()
        assert not gone(stopped)
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, err
    assert f"the head of the Ray cluster at {cluster.address} has not answered" in err
    assert len(mlflow_records(results)) == 2, "what was trained is in MLflow all the same"
    again = Backend("ray", results, ["--backend", "ray"])
    code, _, err = again.run(path, *WORKERS)
    assert code == 0, err
    assert again.numbers() == reference(path).numbers()


def gone(pids, seconds=PATIENCE):
    """The processes that are still there after a while; none, if all is well."""
    deadline = time.monotonic() + seconds
    while left := [pid for pid in pids if not is_gone(pid)]:
        if time.monotonic() > deadline:
            return left
        time.sleep(0.1)
    return []


def private(path, results):
    """The command with a private cluster, in a process group of its own, as a shell starts it."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")
    }
    return subprocess.Popen(
        [
            sys.executable,
            str(ROOT / "launch" / "run.py"),
            str(path),
            "--backend",
            "ray",
            *map(str, WORKERS),
        ],
        stderr=subprocess.PIPE,
        text=True,
        env={
            **environment,
            **OFTEN,
            "CUDA_VISIBLE_DEVICES": "",
            "RM_RESULTS_DIR": str(results),
        },
        start_new_session=True,
    )


@pytest.fixture
def short_folder():
    """One whose name leaves room for Ray's sockets."""
    with tempfile.TemporaryDirectory(
        prefix="rt-", dir="/tmp", ignore_cleanup_errors=True
    ) as folder:
        yield folder


@pytest.mark.cluster
def test_a_private_cluster_ends_with_its_command(
    write_spec, results, reference, short_folder, monkeypatch
):
    """The driver is killed; run again, and stopped by Ctrl-C, which a terminal sends to the whole
    group; run again.
    """
    # Not /tmp itself: another test's command would remove what this one's leaves there.
    monkeypatch.setenv("TMPDIR", short_folder)
    path = write_spec(**{**LONG, "epochs: 2": "epochs: 140"})  # actors train on for two seconds
    backend = Backend("ray", results, ["--backend", "ray"])
    process = private(path, results)
    backend.wait_for_epochs(process, trials=2, checkpoint=True)
    below = [pid for pid, _ in children(process.pid)]
    assert set(backend.leased().values()) <= set(below)
    assert {os.getpriority(os.PRIO_PROCESS, pid) for pid in backend.leased().values()} == {
        os.getpriority(os.PRIO_PROCESS, 0)
    }, "Ray would start them with the lowest priority but a few"
    (left,) = ray_folders(process.pid)
    process.kill()
    _, err = process.communicate()
    assert process.returncode == -signal.SIGKILL, f"it had ended before: {err}"
    assert left.exists()
    assert gone(below) == []
    assert not backend_finished(backend)

    process = private(path, results)
    backend.wait(
        lambda: all("resumed" in backend.events(trial.id) for trial in load_spec(path).trials),
        process,
    )
    below = [pid for pid, _ in children(process.pid)]
    folders = ray_folders(process.pid)
    assert folders
    assert not left.exists(), "what the killed command left is removed by the next one"
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, err
    assert "the same command resumes from here" in err
    assert "Traceback" not in err
    assert gone(below) == []
    assert not any(folder.exists() for folder in folders)
    assert {backend.events(trial.id)[-1] for trial in load_spec(path).trials} == {"interrupted"}

    code, _, err = backend.run(path, *WORKERS)
    assert code == 0, err
    assert "(raylet)" not in err
    assert len(lines_said(err)) <= 3, "Ray's own noise stays away from our lines"
    assert backend.numbers() == reference(path).numbers()


def ray_folders(pid):
    """Of the private clusters under a process."""
    return {
        Path(word.split("=")[1]).parent
        for _, words in children(pid)
        for word in words
        if word.startswith(("--session-dir=", "--session_dir="))
    }


@pytest.mark.cluster
def test_what_rays_memory_monitor_says_is_passed_on(write_spec, results):
    """Its threshold is so low that no worker may live."""
    backend = Backend("ray", results, ["--backend", "ray"])
    low = {"RAY_memory_usage_threshold": "0.001", "RAY_memory_monitor_refresh_ms": "50"}
    code, _, err = backend.run(write_spec(), "--workers", 1, environment=low)
    assert code in (1, 2), err
    assert "was ended by Ray, as its node ran low on memory (" in err
    assert "try fewer --workers" in err
    assert "Traceback" not in err
    assert "raylet" not in err


def backend_finished(backend):
    return [
        trial
        for trial in backend.numbers()
        if (backend.results / "runs" / trial / "result.json").exists()
    ]


@pytest.mark.cluster
def test_actors_on_a_cluster_that_stays_let_go_when_their_driver_is_killed(
    write_spec, results, ray_cluster, reference
):
    path = write_spec(**LONG)
    backend = Backend("ray", results, ["--backend", "ray", "--address", ray_cluster.address])
    process = backend.start(path, *WORKERS, environment=OFTEN)
    backend.wait_for_epochs(process, trials=2, checkpoint=True)
    workers = list(backend.leased().values())
    process.kill()
    process.communicate()
    assert gone(workers) == []
    code, _, err = backend.run(path, *WORKERS)
    assert code == 0, err
    assert all("resumed" in backend.events(trial.id) for trial in load_spec(path).trials)
    assert backend.numbers() == reference(path).numbers()


@pytest.mark.cluster
def test_ctrl_c_twice_kills(write_spec, results, ray_cluster):
    """A step that takes long is not waited for the second time; the last checkpoint counts."""
    path = write_spec(**{**LONG, "epochs: 80": "epochs: 2000"})
    backend = Backend("ray", results, ["--backend", "ray", "--address", ray_cluster.address])
    process = backend.start(path, *WORKERS, environment=OFTEN)
    backend.wait_for_epochs(process, trials=2, checkpoint=True)
    workers = list(backend.leased().values())
    os.kill(workers[0], signal.SIGSTOP)  # hears nothing
    process.send_signal(signal.SIGINT)
    other = next(trial for trial, pid in backend.leased().items() if pid != workers[0])
    backend.wait(lambda: backend.events(other)[-1] == "interrupted", process)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, err
    assert gone(workers) == []
