"""A command that is forked off a warm process is the one that a shell starts: same words, same
streams, same end (tests/support/warm.py).
"""

import json
import os
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import warm
from tests.support.processes import children_of, words_of
from tests.support.trials import PATIENCE, ROOT

QUICKSTART = str(ROOT / "experiments" / "quickstart.yaml")


@pytest.fixture(params=["warm", "cold"])
def start(request, results, monkeypatch):
    """A command by either way; the test fails where a warm one was started anew."""
    if request.param == "cold":
        monkeypatch.setenv("PYTHONHASHSEED", "0")  # an interpreter reads it when it starts

    def started(*words, **options):
        process = warm.Popen(
            [*warm.COMMAND, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )
        own = process.pid in children_of(os.getpid())
        assert own == (request.param == "cold")
        return process

    return started


def test_what_it_says_and_how_it_ends(start, tmp_path):
    for words, code, out, err in (
        (["status", "quickstart.yaml"], 0, "18 trials: 18 waiting", ""),
        (["status", "absent.yaml"], 2, "", "absent.yaml"),
        (["statsu"], 2, "", "did you mean 'status'?"),
    ):
        process = start(*words, cwd=ROOT / "experiments")
        said = process.communicate(timeout=PATIENCE)
        assert process.returncode == code, said
        assert out in said[0]
        assert err in said[1]
        assert "Traceback" not in said[1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_ends_it_and_its_words_stand_under_proc(start, number):
    environment = {**os.environ, "RM_MARK": "é"}
    process = start("status", QUICKSTART, "--watch", env=environment, start_new_session=True)
    assert "18 waiting" in process.stdout.readline()
    assert words_of(process.pid) == [*warm.COMMAND, "status", QUICKSTART, "--watch"]
    assert "RM_MARK=é".encode() in Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
    assert os.getsid(process.pid) == process.pid
    assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.05)
    process.send_signal(number)
    assert process.wait(PATIENCE) == -number
    process.communicate()


def test_ctrl_c_ends_it_as_in_a_shell(start):
    process = start("status", QUICKSTART, "--watch")
    assert "18 waiting" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode in (0, 130)
    assert "Traceback" not in err


def test_whatever_else_is_started_anew():
    for words in ([sys.executable, "-c", "import time; time.sleep(9)"], ["sleep", "9"]):
        with warm.Popen(words) as process:
            assert process.pid in children_of(os.getpid())
            process.kill()


def test_its_standard_input_is_what_it_is_given(start):
    with Path(QUICKSTART).open() as file:
        process = start("status", "/dev/stdin", stdin=file)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    assert "18 waiting" in out


@pytest.mark.parametrize("sent", [0, 4, 9, None])
def test_whoever_asks_may_be_killed_at_any_moment(start, results, sent):
    """The template goes on, and so does what it has started."""
    request = {"words": [*warm.COMMAND, "--help"], "environment": dict(os.environ)}
    data = json.dumps({**request, "folder": str(ROOT), "new_session": False}).encode()
    with socket.socket(socket.AF_UNIX) as connection, Path(os.devnull).open("r+") as nothing:
        connection.connect(warm.address())
        if sent != 0:
            length = [struct.pack("i", len(data))]
            socket.send_fds(connection, length, [nothing.fileno()] * 3)
            connection.sendall(data[: sent if sent is None else sent - 4])
    process = start("--help")
    assert "usage" in process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == 0
