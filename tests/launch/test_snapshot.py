"""Snapshots of a working tree: what is in them, that equal trees share one, and that many
launchers take it at once.
"""

import json
import os
import subprocess
import sys

import pytest

from launch.backends import snapshot
from tests.support.trials import PATIENCE, ROOT

IDENTITY = {
    "GIT_AUTHOR_NAME": "a",
    "GIT_AUTHOR_EMAIL": "a@b",
    "GIT_COMMITTER_NAME": "a",
    "GIT_COMMITTER_EMAIL": "a@b",
}


def git(root, *words):
    environment = {**os.environ, **IDENTITY}
    return subprocess.run(
        ["git", "-C", root, *words], check=True, capture_output=True, text=True, env=environment
    ).stdout


@pytest.fixture
def tree(tmp_path):
    """A repository with a package, a script, a link, ignored and untracked files, results, and an
    edited file.
    """
    root = tmp_path / "tree"
    for name, text in {
        ".gitignore": "ignored\n/results/*\n!/results/reproduced/\n",
        "rm/__init__.py": "NUMERICS = 1\n",
        "rm/ops.py": "before\n",
        "experiments/a.yaml": "title: a\n",
        "run me.sh": "#!/bin/sh\n",
        "gone.py": "deleted later\n",
        "results/reproduced/x.json": "{}\n",
        "results/mlflow.db": "db\n",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "run me.sh").chmod(0o755)
    (root / "link.py").symlink_to("rm/ops.py")
    git(tmp_path, "init", "-q", root)
    git(root, "add", ".")
    git(root, "commit", "-qm", "begin")
    (root / "rm" / "ops.py").write_text("after\n")
    (root / "rm" / "new é.py").write_text("untracked\n")
    (root / "ignored").write_text("x")
    (root / "gone.py").unlink()
    return root


def contents(folder):
    return {
        str(path.relative_to(folder)): str(path.readlink())
        if path.is_symlink()
        else path.read_text()
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }


def test_what_is_in_a_snapshot(tree):
    taken = snapshot.take(tree, tree / "results")
    assert taken.parent == tree / "results" / "snapshots"
    found = contents(taken)
    provenance = json.loads(found.pop(".provenance.json"))
    check = ["sha256sum", "--check", "--strict", "--quiet", snapshot.MANIFEST]
    subprocess.run(check, cwd=taken, check=True)
    assert len(found.pop(snapshot.MANIFEST).splitlines()) == 6, "all but the link"
    assert found == {
        ".gitignore": "ignored\n/results/*\n!/results/reproduced/\n",
        "rm/__init__.py": "NUMERICS = 1\n",
        "rm/ops.py": "after\n",
        "rm/new é.py": "untracked\n",
        "experiments/a.yaml": "title: a\n",
        "run me.sh": "#!/bin/sh\n",
        "link.py": "rm/ops.py",
    }
    assert os.access(taken / "run me.sh", os.X_OK)
    assert not (taken / "rm" / "ops.py").stat().st_mode & 0o333
    assert provenance["git_commit"] == git(tree, "rev-parse", "HEAD").strip()
    assert "-before\n+after" in provenance["git_diff"]
    assert provenance["untracked"] == ["rm/new é.py"]


def test_equal_trees_share_one_and_an_edit_makes_another(tree, tmp_path):
    results = tmp_path / "elsewhere"
    first = snapshot.take(tree, results)
    assert snapshot.take(tree, results) == first
    git(tree, "add", ".")
    git(tree, "commit", "-qm", "the same files")
    assert snapshot.take(tree, results) == first
    (tree / "rm" / "ops.py").write_text("later\n")
    second = snapshot.take(tree, results)
    assert second != first
    assert (first / "rm" / "ops.py").read_text() == "after\n"
    (tree / "run me.sh").chmod(0o644)
    assert snapshot.take(tree, results) not in (first, second)
    assert len(list((results / "snapshots").iterdir())) == 3


def test_many_launchers_at_once_take_one(tree, tmp_path):
    code = "import sys; from pathlib import Path; from launch.backends.snapshot import take; "
    code += "input(); print(take(Path(sys.argv[1]), Path(sys.argv[2])))"
    many = [
        subprocess.Popen(
            [sys.executable, "-c", code, tree, tmp_path / "results"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(6)
    ]
    for process in many:
        process.stdin.write("\n")
        process.stdin.flush()
    taken = {process.communicate(timeout=PATIENCE)[0].strip() for process in many}
    assert [process.returncode for process in many] == [0] * 6
    assert [str(entry) for entry in (tmp_path / "results" / "snapshots").iterdir()] == list(
        taken
    ), "and nothing beside it"


def test_a_large_untracked_file_is_left_out_and_named(tree, tmp_path, capsys):
    with (tree / "weights.pt").open("wb") as file:
        file.truncate(snapshot.MOST_UNTRACKED_BYTES + 1)
    taken = snapshot.take(tree, tmp_path / "results")
    assert not (taken / "weights.pt").exists()
    assert "weights.pt" in capsys.readouterr().err
    assert json.loads((taken / ".provenance.json").read_text())["left_out"] == ["weights.pt"]


def test_without_git_the_packages_are_copied(tree, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    (tree / "rm" / "__pycache__").mkdir()
    (tree / "rm" / "__pycache__" / "ops.pyc").write_text("")
    taken = snapshot.take(tree, tmp_path / "results")
    found = contents(taken)
    assert set(found) >= {
        "rm/__init__.py",
        "rm/ops.py",
        "rm/new é.py",
        "experiments/a.yaml",
        "run me.sh",
    }
    assert not {name for name in found if "__pycache__" in name or name.startswith("results")}
    assert json.loads(found[".provenance.json"])["git_commit"] is None


def test_a_snapshot_of_a_snapshot_is_the_same_and_keeps_the_commit(tree):
    first = snapshot.take(tree, tree / "results")
    (tree / "rm" / "ops.py").write_text("later\n")
    git(tree, "commit", "-qam", "later")
    again = snapshot.take(first, tree / "results")
    before, after = (
        json.loads((folder / ".provenance.json").read_text()) for folder in (first, again)
    )
    assert after["git_commit"] == before["git_commit"]
    assert (again / "rm" / "ops.py").read_text() == "after\n"


def test_the_launcher_runs_from_a_snapshot_of_this_repository(tmp_path):
    taken = snapshot.take(ROOT, tmp_path / "results")
    done = subprocess.run(
        [sys.executable, taken / "launch" / "run.py", "plan", "experiments/quickstart.yaml"],
        cwd=tmp_path,
        env={**os.environ, "RM_RESULTS_DIR": str(tmp_path / "results")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "18 trials: 18 waiting" in done.stdout


def test_what_is_damaged_is_written_again(tree, tmp_path, capsys):
    """As after a power cut: every file there, and every one empty."""
    taken = snapshot.take(tree, tmp_path / "results")
    before = contents(taken)
    lines = snapshot.check_lines(taken)
    for path in taken.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(0o600)
            path.write_bytes(b"")
    (taken / "link.py").unlink()
    assert snapshot.take(tree, tmp_path / "results") == taken
    assert "7 files of" in capsys.readouterr().err
    after = contents(taken)
    assert after.keys() == before.keys()
    assert [name for name in after if after[name] != before[name]] == [".provenance.json"]
    assert snapshot.check_lines(taken) == lines
    assert os.access(taken / "run me.sh", os.X_OK)
    snapshot.take(tree, tmp_path / "results")
    assert capsys.readouterr().err == ""


def test_names_that_sha256sum_writes_in_its_own_way(tree, tmp_path):
    (tree / "rm" / "a\\b\nc.py").write_text("x\n")
    taken = snapshot.take(tree, tmp_path / "results")
    script = "\n".join([*snapshot.check_lines(taken), "echo whole"])
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "whole\n")
    (taken / "rm" / "a\\b\nc.py").unlink()
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, "is gone or damaged" in done.stdout) == (66, True)
