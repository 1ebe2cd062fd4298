"""Reading what `rm.gpu_queue` packed on another machine. Nothing is unpacked to disk: known names
are read, others refused.
"""

import hashlib
import json
import re
import tarfile
from pathlib import Path, PurePosixPath
from typing import Any

from launch.runs import rundir
from rm import registry

Files = dict[str, bytes]
"""The files of one run directory, by name."""

_NAME = re.compile(r"[0-9a-f]{12}")
_PACKED = set(rundir.EXPORTED_FILES)


class ArchiveError(ValueError):
    """A file that is no archive of `rm.gpu_queue`; the message says why."""


def source_digest() -> str:
    """A hash of every source file of `rm`, as `rm.parcel` computes it where the trials run."""
    root, digest = registry.SOURCE, hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(
            f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes() + b"\0"
        )
    return digest.hexdigest()


def read_archive(path: Path) -> list[tuple[str, Files]]:
    """(where it stands, files) of each run directory in an archive."""
    runs: dict[str, Files] = {}
    manifest: dict[str, Any] = {}
    try:
        with tarfile.open(path) as archive:
            for entry in archive:
                parts, file = (
                    PurePosixPath(entry.name).parts,
                    archive.extractfile(entry) if entry.isfile() else None,
                )
                known = (
                    len(parts) == 3
                    and parts[0] == "runs"
                    and _NAME.fullmatch(parts[1])
                    and parts[2] in _PACKED
                )
                if file is None or not (known or parts == ("manifest.json",)):
                    raise ArchiveError(
                        f"{path}: did not expect '{entry.name}' in an archive of rm.gpu_queue"
                    )
                if known:
                    runs.setdefault(parts[1], {})[parts[2]] = file.read()
                else:
                    manifest = json.loads(file.read())
        for files in runs.values():
            _add_commit(files, manifest)
    except (OSError, EOFError, tarfile.TarError, ValueError, KeyError) as error:
        if isinstance(error, ArchiveError):
            raise
        raise ArchiveError(
            f"{path}: cannot be read as an archive of rm.gpu_queue: {error}"
        ) from None
    return [(f"{path}:runs/{identity}", files) for identity, files in sorted(runs.items())]


def _add_commit(files: Files, manifest: dict[str, Any]) -> None:
    """A machine without git does not know its commit. Where its source of `rm` was that of the
    plan, it is the plan's.
    """
    queue = manifest["queue"]
    if rundir.PROVENANCE not in files or manifest["source"] != queue["source"]:
        return
    attempts = json.loads(files[rundir.PROVENANCE])
    for attempt in attempts:
        if attempt.get("git_commit") is None and queue["git_commit"]:
            attempt |= {"git_commit": queue["git_commit"], "git_diff": ""}
    files[rundir.PROVENANCE] = json.dumps(attempts).encode()
