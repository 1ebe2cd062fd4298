"""What travels between machines: run directories to train elsewhere, and what comes of them.

    FOLDER/manifest.json      {"git_commit", "source", "trials": [{"id", "label"}, ...]}, in order
    FOLDER/runs/<trial id>/   run directories, ready to run; parents that are finished with weights
    FOLDER/launch, FOLDER/rm  the code that planned them

`run.py export` writes such a folder, `python -m launch.backends.local FOLDER` trains it and packs
`FOLDER/back`, and `run.py import` reads the archives there. Standard library only.
"""

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from launch.paths import ROOT
from launch.runs import rundir
from launch.runs.rundir import RunDir

Files = dict[str, bytes]
"""The files of one run directory, by name."""

RECORD = (*rundir.RECORD_FILES, rundir.RESOURCES, rundir.LOG)
WEIGHTS = (rundir.WEIGHTS, rundir.BEST_WEIGHTS)
HEAVY = (rundir.CHECKPOINT, *WEIGHTS)
LOG_TAIL = 64 * 1024
"""Bytes of a log that travel, its last ones."""
_NAME = re.compile(r"[0-9a-f]{12}")


class ArchiveError(ValueError):
    """A file that is no archive of run directories; the message says why."""


def source_digest(root: Path = ROOT) -> str:
    """A hash of every source file of `rm`: whether two machines compute the same, with or without
    git.
    """
    digest = hashlib.sha256()
    for path in sorted((root / "rm").rglob("*.py")):
        name = path.relative_to(root / "rm").as_posix()
        digest.update(f"{name}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def run_dirs_of(folder: Path) -> list[Path]:
    """The run directories below an exported folder, or in a folder of runs; in the order of its
    manifest, where it has one.
    """
    runs = folder / "runs" if (folder / "runs").is_dir() else folder
    found = {path.parent.name: path.parent for path in sorted(runs.glob(f"*/{rundir.TRIAL}"))}
    order = [trial["id"] for trial in read_manifest(folder).get("trials", [])]
    return [found[name] for name in dict.fromkeys((*order, *found)) if name in found]


def read_manifest(folder: Path) -> dict[str, Any]:
    """Of an exported folder; empty for any other one."""
    try:
        found: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return found


def pack(
    folder: Path, run_dirs: Sequence[Path], out: Path, with_checkpoints: bool
) -> Iterator[str]:
    """Write to `out` what came of run directories, in place of an earlier pack; yields a line
    about each archive.

    `records.tar.gz` has those in which something happened, without weights; with checkpoints,
    `<trial id>.tar` has one with its weights, or its newest checkpoint where it is unfinished.
    """
    out.mkdir(parents=True, exist_ok=True)
    for old in (out / "records.tar.gz", *out.glob(f"{'[0-9a-f]' * 12}.tar")):
        old.unlink(missing_ok=True)
    about = json.dumps({"plan": read_manifest(folder), "source": source_digest()}).encode()
    began = [run_dir for run_dir in run_dirs if RunDir(run_dir).has(rundir.JOURNAL)]
    path = out / "records.tar.gz"
    _write_archive(path, "w:gz", about, began, RECORD)
    yield f"packed {len(began)} run directories: {path}, {path.stat().st_size / 2**20:.2f} MiB"
    for run_dir in began if with_checkpoints else ():
        heavy = WEIGHTS if RunDir(run_dir).has(rundir.RESULT) else (rundir.CHECKPOINT,)
        if any((run_dir / name).exists() for name in heavy):
            path = out / f"{run_dir.name}.tar"
            _write_archive(path, "w", about, [run_dir], (*RECORD, *heavy))
            yield f"packed with weights: {path}, {path.stat().st_size / 2**20:.2f} MiB"


def _write_archive(
    path: Path, mode: Any, about: bytes, run_dirs: Iterable[Path], names: Sequence[str]
) -> None:
    aside = path.with_suffix(".tmp")
    with tarfile.open(aside, mode) as archive:
        _add_file(archive, "manifest.json", about)
        for run_dir in run_dirs:
            for name in names:
                if (run_dir / name).is_file():
                    data = (run_dir / name).read_bytes()
                    kept = data[-LOG_TAIL:] if name == rundir.LOG else data
                    _add_file(archive, f"runs/{run_dir.name}/{name}", kept)
    aside.replace(path)


def _add_file(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    archive.addfile(entry, io.BytesIO(data))


def read_archive(path: Path) -> list[tuple[str, Files]]:
    """(where it stands, files) of each run directory in an archive. Nothing is unpacked to disk:
    known names are read, others refused.
    """
    runs: dict[str, Files] = {}
    manifest: dict[str, Any] = {}
    try:
        with tarfile.open(path) as archive:
            for entry in archive:
                parts = PurePosixPath(entry.name).parts
                file = archive.extractfile(entry) if entry.isfile() else None
                if file is None or not (_is_of_a_run(parts) or parts == ("manifest.json",)):
                    raise ArchiveError(
                        f"{path}: did not expect '{entry.name}' in an archive of run directories"
                    )
                if len(parts) == 3:
                    runs.setdefault(parts[1], {})[parts[2]] = file.read()
                else:
                    manifest = json.loads(file.read())
        for files in runs.values():
            _add_commit(files, manifest)
    except (OSError, EOFError, tarfile.TarError, ValueError, KeyError) as error:
        if isinstance(error, ArchiveError):
            raise
        raise ArchiveError(
            f"{path}: cannot be read as an archive of run directories: {error}"
        ) from None
    return [(f"{path}:runs/{identity}", files) for identity, files in sorted(runs.items())]


def _is_of_a_run(parts: Sequence[str]) -> bool:
    return (
        len(parts) == 3
        and parts[0] == "runs"
        and _NAME.fullmatch(parts[1]) is not None
        and parts[2] in (*RECORD, *HEAVY)
    )


def _add_commit(files: Files, manifest: Mapping[str, Any]) -> None:
    """A machine without git does not know its commit. Where its source of `rm` was that of the
    plan, it is the plan's.
    """
    plan = manifest["plan"]
    if rundir.PROVENANCE not in files or manifest["source"] != plan.get("source"):
        return
    attempts = json.loads(files[rundir.PROVENANCE])
    for attempt in attempts:
        if attempt.get("git_commit") is None and plan["git_commit"]:
            attempt |= {"git_commit": plan["git_commit"], "git_diff": ""}
    files[rundir.PROVENANCE] = json.dumps(attempts).encode()
