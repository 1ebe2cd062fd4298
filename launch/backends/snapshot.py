"""A copy of the working tree for jobs that start later: what is edited meanwhile does not reach
them.
"""

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rm.files import sync_filesystem, sync_folder, write_atomically

PROVENANCE = ".provenance.json"
"""In a snapshot: {"git_commit", "git_diff", "untracked", "left_out", "time"}; commit and diff are
null where there is no git.
"""
MANIFEST = ".manifest.sha256"
"""In a snapshot: what `sha256sum --check` reads, for every file but the links."""

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
    all, and its files cannot be written. One that is there already is compared by content: after a
    power cut or a clean-up, what is damaged or gone is written again. Results are left out. Where
    there is no git, the packages, `experiments` and the files beside them are copied.
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
    kept = [name for name in untracked if name not in left_out]
    about = {"untracked": kept, "left_out": left_out}
    if target.exists():
        _mend(root, files, about, target)
    else:
        _write(files, {**_provenance(root), **about}, target)
    return target


def check_lines(tree: Path) -> list[str]:
    """Shell lines that go into a snapshot, and end with status 66 where it is not as it was
    taken: a job must never run other code than was planned, or none.
    """
    manifest = hashlib.sha256((tree / MANIFEST).read_bytes()).hexdigest()
    gone = f"echo {shlex.quote(f'the snapshot {tree} is gone or damaged; run `retry`')}; exit 66"
    return [
        f"cd {shlex.quote(str(tree))} || {{ {gone}; }}",
        f"echo '{manifest}  {MANIFEST}' | sha256sum --check --status || {{ {gone}; }}",
        f"sha256sum --check --quiet {MANIFEST} || {{ {gone}; }}",
    ]


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
        if entry.is_file() and entry.name not in (PROVENANCE, MANIFEST):
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
    return [file for name in names if (file := _found(root, name)) is not None]


def _found(root: Path, name: str) -> _File | None:
    path = root / name
    try:
        if path.is_symlink():
            return _File(name, 0, os.fsencode(path.readlink()), True)
        if path.is_file():
            return _File(name, path.stat().st_mode & 0o555 | 0o400, path.read_bytes(), False)
    except FileNotFoundError:
        pass  # an editor replaced it just now: gone, as if deleted before
    return None


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
            _put(file, aside / file.name)
        (aside / PROVENANCE).write_text(json.dumps(provenance, indent=1), encoding="utf-8")
        (aside / MANIFEST).write_bytes(_manifest(files))
        sync_filesystem(aside)  # before it has its name: what is there is whole
        aside.rename(target)
        sync_folder(target.parent)
    except OSError:
        if not target.is_dir():
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _put(file: _File, path: Path) -> None:
    if file.is_link:
        path.symlink_to(os.fsdecode(file.data))
    else:
        path.write_bytes(file.data)
        path.chmod(file.mode)


def _mend(root: Path, files: Sequence[_File], about: dict[str, Any], target: Path) -> None:
    """Write again what is not as it was taken, each file at once: jobs may be running from it."""
    wrong = [
        file
        for file in files
        if (found := _found(target, file.name)) is None
        or (found.data, found.is_link) != (file.data, file.is_link)
    ]
    for file in wrong:
        path = target / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
        _put(file, aside)
        aside.replace(path)
    known, manifest = _found(target, MANIFEST), _manifest(files)
    if known is None or known.data != manifest:
        write_atomically(target / MANIFEST, manifest)
    try:
        json.loads((target / PROVENANCE).read_bytes())
    except (OSError, ValueError):
        provenance = {**_provenance(root), **about}
        write_atomically(target / PROVENANCE, json.dumps(provenance, indent=1))
    if wrong:
        print(f"{len(wrong)} files of {target} were damaged or gone; mended", file=sys.stderr)
        sync_filesystem(target)


def _manifest(files: Sequence[_File]) -> bytes:
    lines = []
    for file in files:
        if file.is_link:
            continue
        # sha256sum's own way of writing names with a backslash or a line's end in them
        name = file.name.replace("\\", "\\\\").replace("\n", "\\n")
        mark = "\\" if name != file.name else ""
        lines.append(f"{mark}{hashlib.sha256(file.data).hexdigest()}  {name}\n")
    return os.fsencode("".join(lines))


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
