"""The way to a machine with a GPU and back, with real trainings on this one's CPU."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from io import BytesIO
from pathlib import Path

import pytest

import rm.parcel
from launch import gpu_queue
from launch.cli import main as launch
from launch.plan import make_plan
from launch.runs import archive, import_archive
from launch.runs.rundir import RunDir
from launch.spec.load import load_spec
from rm.gpu_queue import main as train_queue
from tests.support.trials import ROOT, deterministic

LONG = {"epochs: 2": "epochs: 40"}


def plan(spec: Path, out: Path, *more: str) -> list[str]:
    assert gpu_queue.main(["plan", str(spec), "--minutes", "5", "--out", str(out), *more]) == 0
    return [item["id"] for item in json.loads((out / "queue.json").read_text())["trials"]]


def train(queue: Path, *more: str) -> int:
    return train_queue([str(queue), "--minutes", "5", "--device", "cpu", *more])


def test_there_and_back(write_spec, results, tmp_path, capsys):
    """Every trial once: trained from the queue alone, recorded, finished for plans, in MLflow, and
    on the page.
    """
    spec, queue = write_spec(), tmp_path / "queue"
    chosen = plan(spec, queue)
    seeds = [json.loads((queue / "runs" / i / "trial.json").read_text())["seed"] for i in chosen]
    assert seeds == [0, 0, 1, 1]  # one seed of everything first
    assert train(queue, "--side-by-side", "2") == 0
    assert gpu_queue.main(["collect", str(queue / "back" / "records.tar.gz")]) == 0
    records = archive.read(results / "reproduced" / "small.jsonl")
    assert sorted(record["id"] for record in records) == sorted(chosen)
    for identity in chosen:
        assert RunDir(results / "runs" / identity).state() == "finished"
        assert deterministic(results / "runs" / identity) == deterministic(
            queue / "runs" / identity
        )
        assert not list((results / "runs" / identity).glob("*.pt"))
    assert plan(spec, tmp_path / "again") == []
    assert (
        "4 of 4 trials" not in (results / "reproduced" / "README.md").read_text()
    )  # no spec in experiments/ is this one
    from analysis.records.load import load_records

    found = load_records(chosen)
    assert list(found["status"]) == ["FINISHED"] * 4
    assert gpu_queue.main(["collect", str(queue / "back" / "records.tar.gz")]) == 0
    assert "4 runs, 0 of them new or changed" in capsys.readouterr().err


def test_a_fresh_clone_has_what_is_committed(write_spec, results, tmp_path, monkeypatch, capsys):
    spec, queue = write_spec(), tmp_path / "queue"
    chosen = plan(spec, queue)
    assert train(queue) == 0
    name = ["--name", "mine"]
    assert gpu_queue.main(["collect", "--runs", str(queue / "runs"), *name]) == 0
    clone = tmp_path / "clone"
    clone.mkdir()
    (results / "reproduced").rename(clone / "reproduced")
    monkeypatch.setenv("RM_RESULTS_DIR", str(clone))
    states = {use.state for use in make_plan([load_spec(spec)], clone / "runs").uses}
    assert states == {"finished"}
    assert not (clone / "runs").exists()  # looking changes nothing
    assert launch([str(spec)]) == 0
    assert "all 4 trials were finished already" in capsys.readouterr().err
    assert {path.name for path in (clone / "runs").iterdir()} == set(chosen)
    origin = json.loads((clone / "runs" / chosen[0] / "origin.json").read_text())
    assert origin == {"origin": "reproduced", "file": "mine.jsonl"}
    for identity in chosen:
        assert deterministic(clone / "runs" / identity) == deterministic(queue / "runs" / identity)
    assert launch(["sync"]) == 0
    from analysis.records.load import load_records

    assert list(load_records(chosen)["status"]) == ["FINISHED"] * 4


def start(queue: Path, *more: str) -> "subprocess.Popen[str]":
    command = [
        sys.executable,
        "-m",
        "rm.gpu_queue",
        str(queue),
        "--minutes",
        "5",
        "--device",
        "cpu",
        *more,
    ]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def wait_for(condition, process) -> None:
    deadline = time.monotonic() + 240
    while not condition():
        assert process.poll() is None, "the queue ended too early"
        assert time.monotonic() < deadline
        time.sleep(0.05)


def epochs(run_dir: Path) -> int:
    return sum(event["event"] == "epoch" for event in RunDir(run_dir).events()[0])


def test_a_stopped_queue_goes_on_and_ends_with_the_same_numbers(write_spec, results, tmp_path):
    """SIGTERM: checkpoints, an archive, exit status 75; a plan puts what was begun first;
    checkpoints may travel.
    """
    spec = write_spec(**LONG)
    queue, straight = tmp_path / "queue", tmp_path / "straight"
    chosen = plan(spec, queue, "--where", "method=RM", "--most", "1")
    with start(
        queue, "--with-checkpoints"
    ) as process:  # as many slots as below, and so as many threads
        wait_for(lambda: epochs(queue / "runs" / chosen[0]) >= 3, process)
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=240)
    assert process.returncode == 75, said
    assert epochs(queue / "runs" / chosen[0]) < 40
    assert (queue / "runs" / chosen[0] / "checkpoint.pt").exists()
    back = queue / "back"
    assert (
        gpu_queue.main(
            ["collect", str(back / "records.tar.gz"), str(back / f"checkpoint-{chosen[0]}.tar")]
        )
        == 0
    )
    assert not list((results / "reproduced").glob("*.jsonl"))  # unfinished ones are not recorded
    assert RunDir(results / "runs" / chosen[0]).state() == "interrupted"
    second = tmp_path / "second"
    assert (
        plan(spec, second, "--with-checkpoints", "--most", "1") == chosen
    )  # what was begun comes first
    assert train(second) == 0
    assert train_queue([str(_copied(second, straight)), "--minutes", "5", "--device", "cpu"]) == 0
    assert deterministic(second / "runs" / chosen[0]) == deterministic(
        straight / "runs" / chosen[0]
    )
    events = [event["event"] for event in RunDir(second / "runs" / chosen[0]).events()[0]]
    assert events.count("resumed") == 1


def _copied(queue: Path, to: Path) -> Path:
    """The same queue, nothing of it begun."""
    for path in (queue / "runs").glob("*/trial.json"):
        target = to / "runs" / path.parent.name / "trial.json"
        target.parent.mkdir(parents=True)
        target.write_text(path.read_text())
    (to / "queue.json").write_text((queue / "queue.json").read_text())
    return to


def test_what_does_not_fit_is_not_started(write_spec, results, tmp_path):
    """The first shows the pace: the one beside it is stopped for its sake, and the others never
    begin.
    """
    spec, queue = write_spec(**{"epochs: 2": "epochs: 100000"}), tmp_path / "queue"
    first, second, *others = plan(spec, queue)
    lines = []
    with start(queue, "--side-by-side", "2") as process:
        for (
            line
        ) in process.stdout:  # 100,000 epochs are hours; it ends by itself after five minutes
            lines.append(line)
            if line.split()[1:2] == ["interrupted"] and len(lines) > 2:
                break
        alone = epochs(queue / "runs" / first)
        wait_for(lambda: epochs(queue / "runs" / first) >= alone + 3, process)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=240)
    said = "".join(lines)
    assert process.returncode == 75, said
    assert "is stopped, with a checkpoint" in said
    assert epochs(queue / "runs" / first) > epochs(queue / "runs" / second) > 0
    assert not any((queue / "runs" / other / "journal.jsonl").exists() for other in others)


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_one_command_does_all_of_it(write_spec, results, tmp_path):
    """`make gpu-queue` as it is typed, but for the device: plan, train, pack, collect; the second
    time nothing is left.
    """
    spec = write_spec()
    words = [
        "make",
        "-o",
        ".venv/ready",
        "gpu-queue",
        f"BIN={Path(sys.executable).parent}",
        "DEVICE=cpu",
        "MINUTES=8",
    ]
    words += [f"SPECS={spec}", f"QUEUE={tmp_path / 'queue'}", "SIDE_BY_SIDE=2"]
    environment = {**os.environ, "RM_RESULTS_DIR": str(results)}
    for _ in range(2):
        done = subprocess.run(
            words,
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert "0 of 0 unfinished trials" in done.stderr
    assert len(archive.read(results / "reproduced" / "small.jsonl")) == 4
    from analysis.records.load import load_records

    found = load_records([trial.id for trial in load_spec(spec).trials])
    assert list(found["status"]) == ["FINISHED"] * 4


def test_a_failing_trial_stops_no_other(write_spec, results, tmp_path):
    spec, queue = write_spec(), tmp_path / "queue"
    broken, *others = plan(spec, queue)
    path = queue / "runs" / broken / "trial.json"
    path.write_text(path.read_text().replace('"epochs": 2', '"epochs": 0'))
    assert train(queue) == 1
    assert all((queue / "runs" / other / "result.json").exists() for other in others)
    assert "epochs >= 1" in (queue / "runs" / broken / "log.txt").read_text()


def test_a_queue_has_one_runner_and_needs_its_folder(write_spec, results, tmp_path, capsys):
    spec, queue = write_spec(), tmp_path / "queue"
    plan(spec, queue)
    with (queue / ".lock").open("w") as lock:
        import fcntl

        fcntl.flock(lock, fcntl.LOCK_EX)
        assert train(queue) == 2
    assert "another process works on this queue" in capsys.readouterr().err
    assert train(tmp_path / "nothing") == 2
    assert "launch.gpu_queue plan" in capsys.readouterr().err


def finished(write_spec, tmp_path) -> Path:
    """A queue with one finished trial."""
    queue = tmp_path / "queue"
    plan(write_spec(), queue, "--most", "1")
    assert train(queue) == 0
    return queue


def forge(run_dir: Path, file: str, old: str, new: str) -> None:
    text = (run_dir / file).read_text()
    assert old in text
    (run_dir / file).write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("file", "old", "new", "complaint"),
    [
        ("trial.json", '"lr": 0.05', '"lr": 0.06', "its values are those of"),
        ("result.json", '"best_epoch": ', '"best_epoch": 1', "result.json says best_epoch"),
        ("journal.jsonl", '"epoch": 2', '"epoch": 3', "lacks epochs [2] of 2"),
        ("journal.jsonl", '{"event": "started"', '{"event": "resumed"', "not with 'started'"),
        ("provenance.json", "[", "[nonsense", "not the files of a finished run"),
    ],
)
def test_what_does_not_agree_with_itself_is_refused(
    write_spec, results, tmp_path, capsys, file, old, new, complaint
):
    queue = finished(write_spec, tmp_path)
    run_dir = next((queue / "runs").iterdir())
    forge(run_dir, file, old, new)
    assert gpu_queue.main(["collect", "--runs", str(queue / "runs"), "--name", "x"]) == 2
    said = capsys.readouterr().err
    assert complaint in said
    assert str(run_dir) in said
    assert not (results / "reproduced" / "x.jsonl").exists()


def test_another_run_of_a_recorded_trial_needs_replace(write_spec, results, tmp_path, capsys):
    queue = finished(write_spec, tmp_path)
    words = ["collect", "--runs", str(queue / "runs"), "--name", "x"]
    assert gpu_queue.main(words) == 0
    run_dir = next((queue / "runs").iterdir())
    forge(run_dir, "journal.jsonl", '"time": ', '"time": 1')
    assert gpu_queue.main(words) == 2
    assert "--replace" in capsys.readouterr().err
    assert gpu_queue.main([*words, "--replace"]) == 0
    assert archive.read(results / "reproduced" / "x.jsonl")[0]["events"][0]["time"] > 1e10


@pytest.mark.parametrize("member", ["../evil", "runs/0123456789ab/evil.py", "runs/zzz/trial.json"])
def test_an_archive_of_something_else_is_refused(results, tmp_path, capsys, member):
    path = tmp_path / "x.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        entry = tarfile.TarInfo(member)
        entry.size = 2
        archive.addfile(entry, BytesIO(b"{}"))
    assert gpu_queue.main(["collect", str(path)]) == 2
    assert f"did not expect '{member}'" in capsys.readouterr().err
    path.write_bytes(b"no archive")
    assert gpu_queue.main(["collect", str(path)]) == 2
    assert "cannot be read as an archive" in capsys.readouterr().err


def test_both_ends_name_the_source_alike_and_no_archive_is_too_large(tmp_path, monkeypatch):
    assert import_archive.source_digest() == rm.parcel.source_digest()
    for number in range(5):
        run_dir = tmp_path / "runs" / f"{number:012x}"
        run_dir.mkdir(parents=True)
        (run_dir / "journal.jsonl").write_bytes(os.urandom(40_000))
    monkeypatch.setattr(rm.parcel, "LIMIT", 100_000)
    lines = list(rm.parcel.pack(tmp_path, {"queue": {}}, tmp_path / "back", False))
    archives = sorted((tmp_path / "back").iterdir())
    assert len(archives) == len(lines) > 1
    assert all(path.stat().st_size <= 100_000 for path in archives)
    names = []
    for path in archives:
        with tarfile.open(path) as archive:
            names += [name for name in archive.getnames() if name.startswith("runs/")]
    assert len(names) == 5


def test_a_commit_is_told_to_a_machine_without_git_only_for_the_same_source():
    def commit(source: str) -> str | None:
        files = {"provenance.json": b'[{"git_commit": null, "git_diff": null}]'}
        import_archive._add_commit(
            files, {"source": source, "queue": {"source": "a", "git_commit": "abc"}}
        )
        return json.loads(files["provenance.json"])[0]["git_commit"]

    assert commit("a") == "abc"
    assert commit("b") is None
