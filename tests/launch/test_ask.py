"""Many questions to the file system: in order, side by side where they wait, and few of them a run
directory.
"""

import subprocess
import sys
import threading
import time

import pytest

from launch.cli import main as launch
from launch.plan import make_plan
from launch.runs import folder
from launch.runs.create import prepare
from launch.spec.load import load_spec
from tests.support.trials import PATIENCE, ROOT


def test_questions_that_wait_are_asked_side_by_side():
    threads = set()

    def slow(number):
        threads.add(threading.get_ident())
        time.sleep(0.002)
        return number**2

    numbers = list(range(1000))
    assert folder.map_io(slow, numbers) == [number**2 for number in numbers]
    assert 1 < len(threads) <= folder.AT_ONCE + 1


def test_an_error_is_raised_and_nothing_is_fine():
    def question(number):
        time.sleep(0.001)
        if number == 900:
            raise OSError(5, "the disk is away")
        return number

    with pytest.raises(OSError, match="the disk is away"):
        folder.map_io(question, list(range(1000)))
    assert folder.map_io(question, []) == []


@pytest.fixture
def opened(monkeypatch):
    """Every file and folder that is opened while the test wants to know; a hook cannot be taken
    away again.
    """
    seen: list[str] = []
    wanted = [True]
    sys.addaudithook(
        lambda event, words: (
            seen.append(str(words[0])) if wanted[0] and event in _OPENING and words else None
        )
    )
    yield seen
    wanted[0] = False


_OPENING = ("open", "os.listdir", "os.scandir")


def test_finished_trials_cost_one_file_to_look_at_and_one_more_to_relaunch(
    write_spec, results, opened, capsys
):
    """On a network file system each open file is several round trips, ten thousand times."""
    spec = write_spec()
    prepare(make_plan([load_spec(spec)], results / "runs").uses, results / "runs")
    for run_dir in (results / "runs").iterdir():
        (run_dir / "result.json").write_text("{}")
        (run_dir / "journal.jsonl").write_text('{"event": "started", "time": 1.0}\n')
    trials = len(list((results / "runs").iterdir()))
    assert trials == 4

    def inside() -> list[str]:
        found = [
            path.rpartition("/")[2] for path in opened if path.startswith(f"{results / 'runs'}/")
        ]
        opened.clear()
        return found

    inside()
    assert launch(["status", str(spec)]) == 0
    assert "4 finished" in capsys.readouterr().out
    assert inside() == ["result.json"] * trials, "that it is whole"
    plan = make_plan([load_spec(spec)], results / "runs")
    assert inside() == ["result.json"] * trials
    prepare(plan.uses, results / "runs")
    assert inside() == ["uses.jsonl"] * trials


def test_launchers_that_prepare_at_once_leave_whole_directories(write_spec, results):
    spec = write_spec(**{"seeds: [0, 1]": f"seeds: {list(range(150))}"})
    code = (
        "import sys; from pathlib import Path; from launch.plan import make_plan; from "
        "launch.spec.load import load_spec\n"
    )
    code += (
        "from launch.runs.create import prepare; runs = Path(sys.argv[2]); uses = "
        "make_plan([load_spec(sys.argv[1])], runs).uses\n"
    )
    code += "input(); prepare(uses, runs)"
    words = [sys.executable, "-c", code, str(spec), str(results / "runs")]
    launchers = [
        subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for launcher in launchers:
        launcher.stdin.write("\n")
        launcher.stdin.flush()
    said = [launcher.communicate(timeout=PATIENCE)[1] for launcher in launchers]
    assert [launcher.returncode for launcher in launchers] == [0, 0, 0], said
    trials = {trial.id: trial for trial in load_spec(spec).trials}
    assert {path.name for path in (results / "runs").iterdir()} == set(trials)
    for identity, trial in trials.items():
        run_dir = results / "runs" / identity
        assert (run_dir / "trial.json").read_text() == trial.to_json()
        assert len(set((run_dir / "uses.jsonl").read_text().splitlines())) == 1
        assert {path.name for path in run_dir.iterdir()} == {"trial.json", "uses.jsonl"}
