"""`report.py --watch` as people leave it running: beside real trials, through a server's absence,
until the end or Ctrl-C.
"""

import contextlib
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.tracking.journals import environment
from tests.support.tracking.mirrors import Server
from tests.support.trials import PATIENCE, ROOT

pytestmark = pytest.mark.cluster


@pytest.fixture
def env(stored, tmp_path):
    return environment(tmp_path / "results", CUDA_VISIBLE_DEVICES="")


def interruptible():
    """Ctrl-C reaches a command also where the tests themselves run in the background, which a
    shell starts deaf to it.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)


class Watching:
    """The command in a process of its own, its page, and what it has said."""

    def __init__(self, spec: Path, env: dict[str, str], *words: str) -> None:
        self.page = (
            Path(env["RM_RESULTS_DIR"]) / "report" / f"{'-'.join([spec.stem, *words[1:]])}.html"
        )
        self.said, self.complained = (
            spec.with_name(f"{spec.stem}.{stream}") for stream in ("out", "err")
        )
        command = [
            sys.executable,
            str(ROOT / "analysis" / "report.py"),
            str(spec),
            "--watch",
            "1",
            "--format",
            "html",
            *words,
        ]
        with self.said.open("w") as out, self.complained.open("w") as err:
            self.process = subprocess.Popen(
                command, env=env, stdout=out, stderr=err, preexec_fn=interruptible
            )

    def until(self, condition):
        """Wait for the page to be as wanted; returns it."""
        deadline = time.monotonic() + PATIENCE
        while not (self.page.exists() and condition(self.page.read_text(encoding="utf-8"))):
            assert time.monotonic() < deadline, (
                self.said.read_text(),
                self.complained.read_text(),
            )
            assert self.process.poll() is None, (
                self.said.read_text(),
                self.complained.read_text(),
            )
            time.sleep(0.2)
        return self.page.read_text(encoding="utf-8")

    def until_it_complains(self, text):
        deadline = time.monotonic() + PATIENCE
        while text not in self.complained.read_text():
            assert time.monotonic() < deadline
            assert self.process.poll() is None
            time.sleep(0.2)


@contextlib.contextmanager
def watching(spec, env, *words):
    watch = Watching(spec, env, *words)
    try:
        yield watch
    finally:
        if watch.process.poll() is None:
            watch.process.kill()
        watch.process.wait()


def states(page):
    return [seed[1] for cell in data(page)["cells"].values() for seed in cell["seeds"]]


def epochs_shown(page):
    curves = [cell["curves"]["e"] for cell in data(page)["cells"].values() if "curves" in cell]
    return max((max(epochs) for epochs in curves), default=0)


def data(page):
    return json.loads(
        re.search(r"<script[^>]*application/json[^>]*>(.*?)</script>", page, re.DOTALL)[1]
    )


def reloads(page):
    return "data-reload" in page


def run(spec, env, *words):
    command = [
        sys.executable,
        str(ROOT / "launch" / "run.py"),
        str(spec),
        "--workers",
        "1",
        *words,
    ]
    null = subprocess.DEVNULL
    return subprocess.Popen(command, env=env, stdout=null, stderr=null, preexec_fn=interruptible)


def test_the_page_follows_a_training(write_spec, env):
    replacements = {
        "epochs: 2": "epochs: 100000",
        "seeds: [0, 1]": "seeds: [0]",
        "    Baseline: baseline\n": "",
    }
    spec = write_spec(**replacements, **{'claims: ["RM < Baseline"]': "claims: []"})
    with watching(spec, env) as watch:
        assert reloads(watch.until(lambda page: states(page) == ["missing"]))
        training = run(spec, env)
        try:
            begun = watch.until(lambda page: states(page) == ["running"] and epochs_shown(page))
            further = watch.until(lambda page: epochs_shown(page) > epochs_shown(begun))
            assert states(further) == ["running"]
        finally:
            training.send_signal(signal.SIGINT)
            assert training.wait(timeout=PATIENCE) == 130
        stopped = watch.until(lambda page: states(page) == ["killed"])
        assert epochs_shown(stopped) >= epochs_shown(further)
        assert watch.complained.read_text() == ""


def test_the_watch_ends_when_everything_has_finished(write_spec, env):
    spec = write_spec()
    with watching(spec, env, "--profile", "smoke") as watch:
        watch.until(lambda page: states(page) == ["missing", "missing"])
        assert run(spec, env, "--profile", "smoke").wait(timeout=PATIENCE) == 0
        assert watch.process.wait(timeout=PATIENCE) == 0
        last = watch.page.read_text(encoding="utf-8")
        assert states(last) == ["finished", "finished"]
        assert not reloads(last)
        lines = watch.said.read_text().splitlines()
        assert "0 of 2 finished" in lines[0]
        assert "2 of 2 finished" in lines[-1]


def test_an_absent_server_is_waited_for_and_ctrl_c_ends_the_watch(write_spec, env, tmp_path):
    spec = write_spec()
    with Server(env) as server:
        served = {**env, "MLFLOW_TRACKING_URI": server.uri}
        assert (
            run(spec, served, "--where", "method=RM", "--seeds", "0").wait(timeout=PATIENCE) == 0
        )
        with watching(spec, served) as watch:
            watch.until(
                lambda page: sorted(states(page)) == ["finished", "missing", "missing", "missing"]
            )
            server.kill()
            watch.until_it_complains("the records cannot be read")
            time.sleep(2)
            assert watch.process.poll() is None
            assert watch.complained.read_text().count("looking again every 1 s") == 1, "said once"
            server.start()
            assert run(spec, served, "--where", "method=RM").wait(timeout=PATIENCE) == 0
            page = watch.until(lambda page: states(page).count("finished") == 2)
            assert reloads(page)
            watch.process.send_signal(signal.SIGINT)
            assert watch.process.wait(timeout=PATIENCE) in (0, 130)
            assert "Traceback" not in watch.complained.read_text()
            assert not reloads(watch.page.read_text(encoding="utf-8"))
