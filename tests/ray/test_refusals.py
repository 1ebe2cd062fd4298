"""What cannot be is said in one sentence, and the command ends with 2."""

import http.server
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import threading
from pathlib import Path

import pytest

from launch.backends import Limits
from launch.backends.ray.backend import RayBackend
from launch.errors import UsageError
from tests.support.backends import Backend
from tests.support.commands import lines_said
from tests.support.trials import ROOT

pytestmark = pytest.mark.usefixtures("results")


def refusal(path, results, *words, environment=None):
    """The one line that the command adds to `running ...`."""
    code, out, err = Backend("ray", results, ["--backend", "ray", *words]).run(
        path, environment=environment
    )
    lines = [line for line in err.splitlines() if not line.startswith("running ")]
    assert (code, out, len(lines)) == (2, "", 1), err
    return lines[0]


def test_an_address_that_cannot_be_one(write_spec, results):
    for address in ("localhost", "http://a:1", "here:0", "here:99999", ":6379"):
        said = refusal(write_spec(), results, "--address", address)
        assert (
            said == "error: --address takes auto or HOST:PORT, such as 10.0.0.1:6379; found "
            f"'{address}'"
        )
    assert not results.exists()


def test_nobody_answers(write_spec, results):
    said = refusal(write_spec(), results, "--address", "127.0.0.1:9")
    assert said == "error: no Ray cluster answers at 127.0.0.1:9 (Connection refused)"


def test_something_else_answers(write_spec, results):
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = f"127.0.0.1:{server.server_port}"
        said = refusal(write_spec(), results, "--address", address)
    finally:
        server.shutdown()
        server.server_close()
    assert said == f"error: what listens at {address} is not the head of a Ray cluster"


ALONE = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]
"""Runs a command where it sees no processes but its own: `auto` finds clusters by their
processes.
"""


def test_auto_without_a_cluster(write_spec, results, tmp_path):
    if (
        shutil.which("unshare") is None
        or subprocess.run([*ALONE, "true"], capture_output=True).returncode
    ):
        pytest.skip("this machine lets nobody make a process namespace")
    environment = {**os.environ, "RM_RESULTS_DIR": str(results), "RAY_TMPDIR": str(tmp_path)}
    words = [
        sys.executable,
        str(ROOT / "launch" / "run.py"),
        str(write_spec()),
        "--backend",
        "ray",
        "--address",
        "auto",
    ]
    done = subprocess.run([*ALONE, *words], env=environment, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1] == (
        "error: --address auto finds no Ray cluster on this machine; name it as HOST:PORT, or "
        "leave --address out"
    )


@pytest.mark.cluster
def test_auto_takes_the_cluster_that_the_environment_names(write_spec, results, ray_cluster):
    path = write_spec(**{"[0, 1]": "[0]"})
    backend = Backend("ray", results, ["--backend", "ray", "--address", "auto"])
    code, _, err = backend.run(path, environment={"RAY_ADDRESS": ray_cluster.address})
    assert code == 0, err
    assert "2 finished in " in err
    assert len(lines_said(err)) == 2, "Ray's own noise stays away from our lines"


def test_a_private_cluster_that_does_not_start():
    """A store smaller than Ray's least: what Ray raises becomes a sentence, its own logs are
    kept.
    """
    lines = (
        "from launch.backends.ray import cluster",
        "cluster.OBJECT_STORE_BYTES = 1000",
        "from launch.errors import UsageError",
        "try:",
        "    with cluster.joined(None): pass",
        "except UsageError as error: print(error)",
    )
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], cwd=ROOT, capture_output=True, text=True
    )
    said = done.stdout.splitlines()
    assert (done.returncode, len(said)) == (0, 1), done.stderr
    assert said[0].startswith(
        "Ray did not start on this machine: Attempting to cap object store memory usage at 1000 "
        "bytes"
    )
    assert said[0].endswith("--backend local needs no Ray")
    logs = Path(said[0].partition(" are in ")[2].partition(". --backend")[0])
    assert logs.is_dir()
    shutil.rmtree(logs)


def test_ray_is_not_installed(write_spec, results, tmp_path):
    """An environment with every package of this one but ray; the other backends and --help work
    there.
    """
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if entry.name != "ray":
            (tmp_path / entry.name).symlink_to(entry)
    words = [sys.executable, "-S", str(ROOT / "launch" / "run.py")]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "RM_RESULTS_DIR": str(results)}
    spec = [str(write_spec()), "--backend", "ray"]
    done = subprocess.run([*words, *spec], env=environment, capture_output=True, text=True)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert "--backend ray needs the package ray, which " in done.stderr
    helped = subprocess.run(
        [*words, "run", "--help"], env=environment, capture_output=True, text=True
    )
    assert helped.returncode == 0, helped.stderr
    assert "--address auto|HOST:PORT" in helped.stdout


def test_another_version_on_the_cluster(write_spec, results, ray_cluster):
    """What the cluster says of itself is changed, in its own store, for a while."""
    from ray._common.usage import usage_constants
    from ray._raylet import GcsClient

    where = usage_constants.CLUSTER_METADATA_KEY, b"cluster"
    store = GcsClient(address=ray_cluster.address)
    said_before = store.internal_kv_get(*where)
    told = json.loads(said_before)
    try:
        for changed in ({"ray_version": "2.9.0"}, {"python_version": "3.12.1"}):
            store.internal_kv_put(
                where[0], json.dumps({**told, **changed}).encode(), True, where[1]
            )
            said = refusal(write_spec(), results, "--address", ray_cluster.address)
            theirs = {**told, **changed}
            assert said == (
                f"error: the Ray cluster at {ray_cluster.address} runs Ray "
                f"{theirs['ray_version']} on Python "
                f"{theirs['python_version']}, this command Ray {told['ray_version']} on Python "
                f"{told['python_version']}; "
                "both must be the same"
            )
    finally:
        store.internal_kv_put(where[0], said_before, True, where[1])


class Silent:
    """A watcher that keeps what it is told."""

    def __init__(self) -> None:
        self.told = []

    def on_start(self, run_dir): ...

    def on_death(self, run_dir, how): ...
    def on_wait(self, run_dir, for_whom): ...

    def tick(self): ...

    def on_end(self, run_dir, ended):
        self.told.append((run_dir, ended))


def test_a_run_directory_that_the_nodes_do_not_see(ray_cluster, tmp_path):
    with pytest.raises(
        UsageError,
        match=r"does not see .*/trial.json: run directories must lie on a file system that",
    ):
        RayBackend(ray_cluster.address).run([tmp_path / "nowhere"], Silent(), Limits(1))
