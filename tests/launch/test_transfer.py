"""The way to another machine and back, with real trainings on this one's CPU, in a Python that has
nothing but what a bare machine has.
"""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path

import pytest

from launch.cli import main as launch
from launch.plan import make_plan
from launch.runs import archive, transfer
from launch.runs.rundir import RunDir
from launch.spec.load import load_spec
from tests.support.specs import write_spec as write_small_spec
from tests.support.trials import PATIENCE, ROOT, deterministic

ABSENT = (
    "pydantic",
    "yaml",
    "ruamel",
    "rich",
    "mlflow",
    "pandas",
    "ray",
    "submitit",
    "psutil",
    "pynvml",
    "jinja2",
    "scipy",
    "optuna",
    "sqlalchemy",
)
BLOCK = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {ABSENT!r}:
            raise ImportError(f"a bare machine has no {{name}}")
sys.meta_path.insert(0, Absent())
"""


def export(spec: Path, to: Path, *more: str) -> list[str]:
    assert launch(["export", str(spec), "--to", str(to), *more]) == 0
    manifest = to / "manifest.json"
    return [trial["id"] for trial in json.loads(manifest.read_text())["trials"]]


def train(folder: Path, *more: str) -> "subprocess.CompletedProcess[str]":
    """In the folder, from the code that is there, without the packages of this project."""
    (folder.parent / "bare").mkdir(exist_ok=True)
    (folder.parent / "bare" / "sitecustomize.py").write_text(BLOCK)
    environment = {**os.environ, "PYTHONPATH": str(folder.parent / "bare")}
    return subprocess.run(
        [sys.executable, "-m", "launch.backends.local", ".", *more],
        cwd=folder,
        env={**environment, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


@pytest.mark.cluster
def test_there_and_back(write_spec, results, tmp_path, capsys):
    """Every trial once: trained from the folder alone, recorded, finished for plans, in MLflow."""
    spec, folder = write_spec(), tmp_path / "there"
    chosen = export(spec, folder)
    seeds = [json.loads((folder / "runs" / i / "trial.json").read_text())["seed"] for i in chosen]
    assert seeds == [0, 0, 1, 1]  # one seed of everything first
    done = train(folder, "--workers", "2")
    assert done.returncode == 0, done.stderr + done.stdout
    assert "4 finished" in done.stdout
    assert launch(["import", str(folder / "back" / "records.tar.gz")]) == 0
    records = archive.read(results / "reproduced" / "small.jsonl")
    assert sorted(record["id"] for record in records) == sorted(chosen)
    for identity in chosen:
        assert RunDir(results / "runs" / identity).state() == "finished"
        assert deterministic(results / "runs" / identity) == deterministic(
            folder / "runs" / identity
        )
    assert launch(["export", str(spec), "--to", str(tmp_path / "again")]) == 0
    assert not (tmp_path / "again").exists()
    assert "nothing to export" in capsys.readouterr().err
    from analysis.records.load import load_records

    found = load_records(chosen)
    assert list(found["status"]) == ["FINISHED"] * 4
    assert launch(["import", str(folder / "back" / "records.tar.gz")]) == 0
    assert "4 runs, 0 of them new or changed" in capsys.readouterr().err
    a_fresh_clone_has_them(spec, results, tmp_path / "clone", chosen, capsys)


def a_fresh_clone_has_them(spec, results, clone, chosen, capsys):
    clone.mkdir()
    shutil.copytree(results / "reproduced", clone / "reproduced")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RM_RESULTS_DIR", str(clone))
        states = {use.state for use in make_plan([load_spec(spec)], clone / "runs").uses}
        assert states == {"finished"}
        assert not (clone / "runs").exists()  # looking changes nothing
        assert launch([str(spec)]) == 0
        assert "all 4 trials were finished already" in capsys.readouterr().err
        assert {path.name for path in (clone / "runs").iterdir()} == set(chosen)
        origin = json.loads((clone / "runs" / chosen[0] / "origin.json").read_text())
        assert origin == {"origin": "reproduced", "file": "small.jsonl"}
    for identity in chosen:
        assert deterministic(clone / "runs" / identity) == deterministic(
            results / "runs" / identity
        )


@pytest.mark.cluster
def test_a_deadline_stops_with_checkpoints_that_travel_and_are_resumed(
    write_spec, results, tmp_path
):
    """From an archive as it would be sent; at the deadline exit status 75, and nothing runs on."""
    spec, sent = write_spec(**{"epochs: 2": "epochs: 100000"}), tmp_path / "work.tar.gz"
    words = ["export", str(spec), "--where", "method=RM", "--most", "1", "--to", str(sent)]
    assert launch(words) == 0
    with tarfile.open(sent) as file:
        file.extractall(tmp_path, filter="data")
    done = train(tmp_path / "work", "--deadline", "0.7", "--with-checkpoints")
    assert done.returncode == 75, done.stderr + done.stdout
    (run_dir,) = (tmp_path / "work" / "runs").iterdir()
    assert RunDir(run_dir).state() == "interrupted"
    back = tmp_path / "work" / "back"
    sources = [str(back / "records.tar.gz"), str(back / f"{run_dir.name}.tar")]
    assert launch(["import", *sources]) == 0
    assert not list((results / "reproduced").glob("*.jsonl"))  # unfinished ones are not recorded
    assert RunDir(results / "runs" / run_dir.name).state() == "interrupted"
    second = tmp_path / "second"
    assert export(spec, second, "--most", "1") == [run_dir.name]  # what was begun comes first
    assert train(second, "--deadline", "0.5").returncode == 75
    events = [event["event"] for event in RunDir(second / "runs" / run_dir.name).events()[0]]
    assert events.count("resumed") == 1
    assert events[-1] == "interrupted"


@pytest.mark.cluster
@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_one_command_does_all_of_it(write_spec, results, tmp_path):
    """`make gpu-queue` as it is typed: export, train, pack, import; the second time nothing is
    left.
    """
    spec = write_spec(**{"[0, 1]": "[0]"})
    words = ["make", "-o", ".venv/ready", "gpu-queue", f"BIN={Path(sys.executable).parent}"]
    words += ["MINUTES=8", f"SPECS={spec}", f"QUEUE={tmp_path / 'queue'}"]
    environment = {**os.environ, "RM_RESULTS_DIR": str(results), "CUDA_VISIBLE_DEVICES": ""}
    for _ in range(2):
        done = subprocess.run(
            words,
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert "nothing to export" in done.stderr
    assert len(archive.read(results / "reproduced" / "small.jsonl")) == 2
    assert (results / "reproduced" / "README.md").exists()


@pytest.mark.cluster
def test_a_failing_trial_stops_no_other(write_spec, results, tmp_path):
    spec, folder = write_spec(**{"[0, 1]": "[0]"}), tmp_path / "there"
    broken, *others = export(spec, folder)
    forge(folder / "runs" / broken, "trial.json", '"epochs": 2', '"epochs": 0')
    assert train(folder).returncode == 1
    assert all((folder / "runs" / other / "result.json").exists() for other in others)
    assert "epochs >= 1" in (folder / "runs" / broken / "log.txt").read_text()


def test_a_folder_without_runs_is_an_error(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "launch.backends.local", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "no run directories are in it" in done.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder of runs with one finished trial."""
    folder = tmp_path_factory.mktemp("trained") / "there"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RM_RESULTS_DIR", str(folder.parent / "results"))
        spec = write_small_spec(folder.parent)
        export(spec, folder, "--most", "1")
        assert train(folder).returncode == 0
    return folder / "runs"


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
    trained, results, tmp_path, capsys, file, old, new, complaint
):
    runs = shutil.copytree(trained, tmp_path / "runs")
    (run_dir,) = runs.iterdir()
    forge(run_dir, file, old, new)
    assert launch(["import", str(runs), "--name", "x"]) == 2
    errors = capsys.readouterr().err
    assert complaint in errors
    assert str(run_dir) in errors
    assert not (results / "reproduced" / "x.jsonl").exists()


def test_another_run_of_a_recorded_trial_needs_replace(trained, results, tmp_path, capsys):
    runs = shutil.copytree(trained, tmp_path / "runs")
    words = ["import", str(runs), "--name", "x"]
    assert launch(words) == 0
    (run_dir,) = runs.iterdir()
    forge(run_dir, "journal.jsonl", '"time": ', '"time": 1')
    assert launch(words) == 2
    assert "--replace" in capsys.readouterr().err
    assert launch([*words, "--replace"]) == 0
    assert archive.read(results / "reproduced" / "x.jsonl")[0]["events"][0]["time"] > 1e10


@pytest.mark.parametrize("member", ["../evil", "runs/0123456789ab/evil.py", "runs/zzz/trial.json"])
def test_an_archive_of_something_else_is_refused(results, tmp_path, capsys, member):
    path = tmp_path / "x.tar.gz"
    with tarfile.open(path, "w:gz") as file:
        entry = tarfile.TarInfo(member)
        entry.size = 2
        file.addfile(entry, BytesIO(b"{}"))
    assert launch(["import", str(path)]) == 2
    assert f"did not expect '{member}'" in capsys.readouterr().err
    path.write_bytes(b"no archive")
    assert launch(["import", str(path)]) == 2
    assert "cannot be read as an archive" in capsys.readouterr().err


def test_a_commit_is_told_to_a_machine_without_git_only_for_the_same_source(tmp_path):
    def commit(source: str) -> str | None:
        files = {"provenance.json": b'[{"git_commit": null, "git_diff": null}]'}
        path = tmp_path / "x.tar"
        plan = {"source": "a", "git_commit": "abc"}
        with tarfile.open(path, "w") as file:
            members = {"manifest.json": json.dumps({"source": source, "plan": plan}).encode()}
            members |= {f"runs/0123456789ab/{name}": data for name, data in files.items()}
            for name, data in members.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                file.addfile(entry, BytesIO(data))
        ((_, read),) = transfer.read_archive(path)
        return json.loads(read["provenance.json"])[0]["git_commit"]

    assert commit("a") == "abc"
    assert commit("b") is None


@pytest.mark.cluster
def test_a_child_travels_with_its_parent_or_with_its_weights(write_spec, results, tmp_path):
    """Trained there after its parent; or, where the parent is finished here, from its weights."""
    one = {"[0, 1]": "[0]", "    Baseline: baseline\n": "", 'claims: ["RM < Baseline"]': ""}
    spec = write_spec(**one)
    start = "  schedule: {name: cosine}\n"
    init = {start: f"{start}  init: {{from: small, row: RM}}\n"}
    child = write_spec(name="finetuned.yaml", **one, **init)
    (parent_id,), (child_id,) = [[t.id for t in load_spec(p).trials] for p in (spec, child)]
    both = tmp_path / "both"
    assert export(child, both) == [parent_id, child_id]
    done = train(both, "--with-checkpoints")
    assert done.returncode == 0, done.stderr + done.stdout
    assert launch(["import", str(both / "back" / f"{parent_id}.tar")]) == 0
    assert RunDir(results / "runs" / parent_id).state() == "finished"
    alone = tmp_path / "alone"
    assert export(child, alone) == [child_id]
    assert (alone / "runs" / parent_id / "weights.pt").exists()
    done = train(alone)
    assert done.returncode == 0, done.stderr + done.stdout
    assert deterministic(alone / "runs" / child_id) == deterministic(both / "runs" / child_id)
    assert launch(["import", str(alone / "back" / "records.tar.gz")]) == 0
    assert [r["id"] for r in archive.read(results / "reproduced" / "finetuned.jsonl")] == [
        child_id
    ]
