"""The server over the same store, sqlite and PostgreSQL, with the real things."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.support.tracking.journals import (
    FakeRun,
    Rows,
    assert_store_is_true,
    environment,
    sqlite_rows,
)
from tests.support.tracking.mirrors import Mirrors, Server, free_port
from tests.support.trials import PATIENCE, ROOT

pytestmark = pytest.mark.cluster


def sync(env):
    command = [sys.executable, "launch/run.py", "sync"]
    done = subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def some_runs(results):
    runs = [FakeRun(results / "runs", number) for number in range(3)]
    runs[0].train(200)
    runs[0].finish()
    runs[1].train(5)
    return runs


def test_a_server_over_the_sqlite_store_takes_and_shows_the_same_runs(tmp_path):
    env, runs = environment(tmp_path), some_runs(tmp_path)
    with Server(env) as server:
        assert "3 of 3 runs had something new" in sync({**env, "MLFLOW_TRACKING_URI": server.uri})
        assert_store_is_true(sqlite_rows(tmp_path / "mlflow.db"), runs)
        runs[1].fail()
        assert "3 of 3 runs had something new" in sync(env), (
            "the file itself: another address, looked up again"
        )
        assert_store_is_true(sqlite_rows(tmp_path / "mlflow.db"), runs)
        assert "0 of 3 runs had something new" in sync(env)
        request = urllib.request.Request(
            f"{server.uri}/api/2.0/mlflow/experiments/search?max_results=5"
        )
        request.add_header("Host", "evil.example.org")
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(request, timeout=PATIENCE)
        taken = [sys.executable, "launch/run.py", "serve", "--port", str(server.port)]
        refused = subprocess.run(
            taken, cwd=ROOT, env=env, capture_output=True, text=True, timeout=PATIENCE
        )
        assert refused.returncode == 2
        assert f"error: port {server.port} is taken" in refused.stderr


def test_a_store_that_cannot_be_opened_is_named_without_its_password(tmp_path):
    nowhere = {"MLFLOW_BACKEND_STORE_URI": f"sqlite:///{tmp_path}/no/such/folder/mlflow.db"}
    command = [sys.executable, "launch/run.py", "serve", "--port", str(free_port())]
    env = environment(tmp_path, **nowhere)
    done = subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 2
    assert "cannot be opened" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def postgres():
    """A PostgreSQL of our own, in a folder of its own, as the user nobody: it refuses to be
    root.
    """
    pytest.importorskip(
        "psycopg", reason="PostgreSQL needs its driver: pip install 'psycopg[binary]'"
    )
    debian = [
        str(path) for path in Path("/usr/lib/postgresql").glob("*/bin/postgres")
    ]  # which is not on the PATH
    binaries = Path(os.path.realpath(shutil.which("postgres") or max(debian, default=""))).parent
    if not (binaries / "initdb").exists():
        pytest.skip("PostgreSQL is not installed (Debian: apt install postgresql)")
    folder, port = Path(tempfile.mkdtemp(prefix="rm-postgres-")), free_port()
    folder.chmod(0o777)
    as_user = {"user": "nobody"} if os.geteuid() == 0 else {}
    data, null = folder / "data", subprocess.DEVNULL
    make = [binaries / "initdb", "-D", data, "-U", "rm", "--auth=trust", "--no-sync", "-E", "UTF8"]
    subprocess.run(make, check=True, stdout=null, cwd=folder, **as_user)
    serve = [binaries / "postgres", "-D", data, "-p", str(port), "-k", folder, "-h", "127.0.0.1"]
    process = subprocess.Popen(serve, cwd=folder, stdout=null, stderr=null, **as_user)
    deadline = time.monotonic() + PATIENCE
    while not answers(port):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.2)
    yield f"postgresql://rm:secret@127.0.0.1:{port}/postgres"
    process.terminate()
    process.wait(timeout=PATIENCE)
    shutil.rmtree(folder)


def answers(port):
    import psycopg

    try:
        psycopg.connect(host="127.0.0.1", port=port, user="rm", dbname="postgres").close()
    except psycopg.OperationalError:
        return False
    return True


def postgres_rows(uri):
    import psycopg

    with psycopg.connect(uri) as connection, connection.cursor() as cursor:
        return Rows(lambda query: cursor.execute(query).fetchall())


def test_postgresql_holds_the_same_by_its_server_and_directly(tmp_path, postgres):
    """Through `serve` first, which makes the tables; then directly, where mirrors are killed,
    too.
    """
    env, runs = environment(tmp_path), some_runs(tmp_path)
    with Server({**env, "MLFLOW_BACKEND_STORE_URI": postgres}) as server:
        sync({**env, "MLFLOW_TRACKING_URI": server.uri})
        assert_store_is_true(postgres_rows(postgres), runs)
        assert (tmp_path / "artifacts").is_dir(), "kept by the server"
    with Mirrors({**env, "MLFLOW_TRACKING_URI": postgres}) as mirrors:
        for number in range(10):
            runs[1].train(100)
            runs.append(FakeRun(tmp_path / "runs", 10 + number))
            mirrors.begin(0.15 * number)
            assert mirrors.end() in ("killed", "done")
    runs[1].finish()
    assert "cannot be" not in sync({**env, "MLFLOW_TRACKING_URI": postgres})
    assert_store_is_true(postgres_rows(postgres), runs)
    assert "secret" not in (tmp_path / "mirrored.json").read_text(encoding="utf-8")
