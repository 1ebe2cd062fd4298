"""Trials side by side in a given time: who is stopped where not all would end, with real ones."""

import os
import signal
import subprocess
import sys

import pytest

from benchmarks.in_time import Launch, main, promised
from launch.cli import main as launch
from rm.rundir.journal import read
from tests.support.commands import wait_for
from tests.support.specs import write_spec
from tests.support.trials import PATIENCE, ROOT


@pytest.fixture
def folders(tmp_path, results):
    """Two exported trials that would train for days."""
    spec = write_spec(tmp_path, **{"epochs: 2": "epochs: 1000000"})
    found = []
    for method in ("baseline", "recursive_mix"):
        to = tmp_path / method
        words = ["--where", f"method={method}", "--seeds", "0", "--to", str(to)]
        assert launch(["export", str(spec), *words]) == 0
        found.append(to)
    return found


def test_as_many_begin_as_the_throughput_promises(folders):
    launches = [Launch(folder) for folder in folders]
    for launched, epochs in zip(launches, (200, 300), strict=True):
        launched.epochs = epochs
    for images, count in ((50_000 * 2.2, 2), (50_000 * 1.5, 1), (50_000 * 0.1, 1)):
        assert promised(launches, 200, images) == count


@pytest.mark.cluster
def test_the_last_one_is_stopped_where_not_all_would_end(folders, tmp_path):
    """And the others at Ctrl-C; what came of each is packed."""
    words = ["--seconds", str(PATIENCE), "--out", str(tmp_path / "out"), "--device", "cpu"]
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.in_time", *map(str, folders), *words],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        said = next(line for line in process.stdout if "is stopped for the others" in line)
        assert "recursive_mix is stopped" in said
        packed = tmp_path / "out" / "recursive_mix" / "records.tar.gz"
        wait_for(packed.exists, process)
        assert not (tmp_path / "out" / "baseline").exists()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert (tmp_path / "out" / "baseline" / "records.tar.gz").exists()


@pytest.mark.cluster
def test_the_next_one_begins_where_one_has_ended(tmp_path, results, capsys, monkeypatch):
    """One at a time; once more, there is nothing left to do."""
    spec, folders = write_spec(tmp_path, **{"[0, 1]": "[0]"}), []
    for method in ("baseline", "recursive_mix"):
        folders.append(tmp_path / method)
        words = ["export", str(spec), "--where", f"method={method}", "--to", str(folders[-1])]
        assert launch(words) == 0
    words = ["in_time", *map(str, folders), "--seconds", str(PATIENCE), "--most", "1"]
    monkeypatch.setattr(sys, "argv", [*words, "--out", str(tmp_path / "out"), "--device", "cpu"])
    assert main() == 0
    assert "finished: baseline, recursive_mix" in capsys.readouterr().out
    ended, begun = (Launch(folder).run_dir / "journal.jsonl" for folder in folders)
    assert read(ended)[-1]["time"] < read(begun)[0]["time"]
    for name in ("baseline", "recursive_mix"):
        assert (tmp_path / "out" / name / "records.tar.gz").exists()
    assert main() == 0
    assert "all of them had finished before" in capsys.readouterr().out


def test_a_folder_without_a_trial_is_refused(tmp_path, capsys, monkeypatch):
    words = ["in_time", str(tmp_path), "--seconds", "9", "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", words)
    assert main() == 2
    assert capsys.readouterr().err == f"error: {tmp_path}: 0 trials are in it, not 1\n"
