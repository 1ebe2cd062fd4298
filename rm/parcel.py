"""What travels back from a machine that is not kept: the small files of run directories, in
archives of at most 16 MiB.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

LIMIT = 16 * 2**20
"""Bytes of an archive, at most."""

FILES = ("trial.json", "uses.jsonl", "provenance.json", "journal.jsonl", "log.txt", "result.json")
LOG_TAIL = 64 * 1024


def source_digest() -> str:
    """A hash of every source file of `rm`: whether two machines compute the same, with or without
    git.
    """
    root, digest = Path(__file__).resolve().parent, hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(
            f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes() + b"\0"
        )
    return digest.hexdigest()


def pack(
    folder: Path, manifest: Mapping[str, Any], out: Path, with_checkpoints: bool
) -> Iterator[str]:
    """Write the archives of a queue folder to `out`, former ones removed; yields a line about
    each.

    `records.tar.gz` (`records-1.tar.gz` and on, where one is not enough) has `manifest.json` and
    the run directories in which something happened; `checkpoint-<id>.tar` an unfinished one with
    its newest checkpoint.
    """
    out.mkdir(parents=True, exist_ok=True)
    for old in (*out.glob("records*.tar.gz"), *out.glob("checkpoint-*.tar")):
        old.unlink()
    about = json.dumps({**manifest, "source": source_digest()}, indent=1).encode()
    began = [path.parent for path in sorted((folder / "runs").glob("*/journal.jsonl"))]
    parcels = list(_parcels(about, began))
    for number, (data, count) in enumerate(parcels, 1):
        path = out / ("records.tar.gz" if len(parcels) == 1 else f"records-{number}.tar.gz")
        path.write_bytes(data)
        yield f"packed {count} run directories: {path}, {len(data) / 2**20:.2f} MiB"
    for run_dir in began if with_checkpoints else ():
        checkpoint = run_dir / "checkpoint.pt"
        if (run_dir / "result.json").exists() or not checkpoint.exists():
            continue
        data = _tar(about, [run_dir], "w", ("checkpoint.pt",))
        if len(data) > LIMIT:
            yield (
                f"left out: the checkpoint of {run_dir.name}, {len(data) / 2**20:.0f} MiB, "
                "more "
                f"than {LIMIT / 2**20:.0f}"
            )
        else:
            (out / f"checkpoint-{run_dir.name}.tar").write_bytes(data)
            yield (
                f"packed a checkpoint: {out / f'checkpoint-{run_dir.name}.tar'}, "
                f"{len(data) / 2**20:.2f} MiB"
            )


def _parcels(about: bytes, run_dirs: Sequence[Path]) -> Iterator[tuple[bytes, int]]:
    """(archive, number of run directories): one, or halves of halves until each is small
    enough.
    """
    data = _tar(about, run_dirs, "w:gz")
    if len(data) <= LIMIT or len(run_dirs) < 2:
        yield data, len(run_dirs)
    else:
        middle = len(run_dirs) // 2
        yield from _parcels(about, run_dirs[:middle])
        yield from _parcels(about, run_dirs[middle:])


def _tar(about: bytes, run_dirs: Sequence[Path], mode: Any, more: Sequence[str] = ()) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        _put(archive, "manifest.json", about)
        for run_dir in run_dirs:
            for name in (*FILES, *more):
                path = run_dir / name
                if path.is_file():
                    data = path.read_bytes()
                    _put(
                        archive,
                        f"runs/{run_dir.name}/{name}",
                        data[-LOG_TAIL:] if name == "log.txt" else data,
                    )
    return buffer.getvalue()


def _put(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    archive.addfile(entry, io.BytesIO(data))
