"""A copy of the working tree for jobs that start later: what is edited meanwhile does not reach
them.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

PROVENANCE = ".provenance.json"
"""In a snapshot: {"git_commit", "git_diff", "untracked", "left_out", "time"}; commit and diff are
null where there is no git.
"""

MOST_UNTRACKED_BYTES = 50 * 2**20
"""An untracked file that is larger is data rather than code: it is left out, and named on standard
error.
"""


class _File(NamedTuple):
    """One file of the tree, read: a symbolic link keeps its target as data."""

    name: str
    mode: int
    data: bytes
    is_link: bool


def take(root: Path, results: Path) -> Path:
    """Copy what git tracks or would track below `root` to `results/snapshots/<digest>`; returns
    that folder.

    Equal trees share one snapshot, whoever takes them at the same time: it appears whole or not at
    all, and its files cannot be written. Results are left out. Where there is no git, the
    packages, `experiments` and the files beside them are copied.
    """
    names, untracked = _listed(root, results)
    left_out = [name for name in untracked if _size(root / name) > MOST_UNTRACKED_BYTES]
    if left_out:
        print(
            "left out of the snapshot, as git does not track them and they are large: "
            f"{', '.join(left_out)}",
            file=sys.stderr,
        )
    files = _read(root, (name for name in names if name not in left_out))
    target = results / "snapshots" / _digest(files)
    if not target.exists():
        kept = [name for name in untracked if name not in left_out]
        _write(files, {**_provenance(root), "untracked": kept, "left_out": left_out}, target)
    return target


def _listed(root: Path, results: Path) -> tuple[list[str], list[str]]:
    """The names of the files to take, relative to `root`, sorted; and which of them git does not
    track.
    """
    tracked = _git(root, "ls-files", "-z", "--cached")
    others = _git(root, "ls-files", "-z", "--others", "--exclude-standard")
    if (
        root / PROVENANCE
    ).exists() or not tracked:  # a snapshot itself, or no repository of this tree
        return sorted(_without_git(root)), []
    outside = [results.resolve(), root.resolve() / "results"]

    def is_ours(name: str) -> bool:
        return not any((root.resolve() / name).is_relative_to(folder) for folder in outside)

    untracked = sorted(name for name in (others or "").split("\0") if name and is_ours(name))
    return sorted({*filter(is_ours, filter(None, tracked.split("\0"))), *untracked}), untracked


def _without_git(root: Path) -> Iterable[str]:
    for entry in root.iterdir():
        if entry.is_file() and entry.name != PROVENANCE:
            yield entry.name
        elif entry.name == "experiments" or (entry / "__init__.py").exists():
            for path in entry.rglob("*"):
                if path.is_file() and "__pycache__" not in path.parts:
                    yield str(path.relative_to(root))


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0


def _read(root: Path, names: Iterable[str]) -> list[_File]:
    """Each file once: what is hashed is what is written. Files deleted in the working tree, and
    submodules, are not there.
    """
    files = []
    for name in names:
        path = root / name
        try:
            if path.is_symlink():
                files.append(_File(name, 0, os.fsencode(path.readlink()), True))
            elif path.is_file():
                files.append(
                    _File(name, path.stat().st_mode & 0o555 | 0o400, path.read_bytes(), False)
                )
        except FileNotFoundError:
            continue  # an editor replaced it just now: gone, as if deleted before
    return files


def _digest(files: Sequence[_File]) -> str:
    digest = hashlib.sha256()
    for file in files:
        head = [file.name, file.mode & 0o111, file.is_link, len(file.data)]
        digest.update(json.dumps(head).encode() + b"\n" + file.data)
    return digest.hexdigest()[:16]


def _write(files: Sequence[_File], provenance: dict[str, Any], target: Path) -> None:
    """Into a folder aside, which is then renamed; another launcher may be first, with the same
    files.
    """
    aside = target.parent / f".{target.name}.{uuid.uuid4().hex}.tmp"
    try:
        for folder in {(aside / file.name).parent for file in files} | {aside}:
            folder.mkdir(parents=True, exist_ok=True)
        for file in files:
            path = aside / file.name
            if file.is_link:
                path.symlink_to(os.fsdecode(file.data))
            else:
                path.write_bytes(file.data)
                path.chmod(file.mode)
        (aside / PROVENANCE).write_text(json.dumps(provenance, indent=1), encoding="utf-8")
        aside.rename(target)
    except OSError:
        if not target.is_dir():
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _provenance(root: Path) -> dict[str, Any]:
    """The commit, and what the tracked files differ in from it."""
    now = {"time": round(time.time(), 3)}
    try:
        former: dict[str, Any] = json.loads((root / PROVENANCE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        commit = _git(root, "rev-parse", "HEAD")
        if not _git(root, "ls-files", "--cached"):
            commit = None  # a repository around it, which is not about this tree
        return {
            "git_commit": commit and commit.strip(),
            "git_diff": commit and _git(root, "diff", "HEAD", "--", "."),
            **now,
        }
    return {**former, **now}


def _git(root: Path, *words: str) -> str | None:
    """What git says, or None where it cannot be asked. Undecodable bytes of names and diffs
    survive.
    """
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return os.fsdecode(done.stdout)
