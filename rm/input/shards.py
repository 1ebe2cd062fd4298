"""Pictures packed in plain tar files, a few large ones instead of a million small ones, for file
systems of clusters.

python -m rm.input.shards SOURCE TARGET        # SOURCE/{train,val}/<class>/*.JPEG ->
TARGET/{train,val}/shard-00000.tar, ...

No picture is changed, and any tool reads the tars. `index.npz` beside them says where each picture
lies, so that reading one is a seek and a read; where it is missing, the tars' own headers are read
instead, once a start.
"""

import argparse
import os
import sys
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from rm.datasets import DataError

SHARD_BYTES = 2**30
_INDEX = "index.npz"
_ENDINGS = (".jpeg", ".jpg", ".png")
_OTHER_ENDINGS = (".webp", ".bmp", ".gif", ".tif", ".tiff", ".jp2", ".avif", ".heic", ".ppm")


@dataclass(frozen=True)
class Table:
    """The pictures of a split, sorted by class and name.

    labels, names   (N,) numbers in `classes`, file names
    places          (N, 3) tar among `shard_files`, first byte, bytes; None where each picture is a
                    file of its own
    """

    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    names: NDArray[np.bytes_]
    places: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def path(self, image: int) -> str:
        """class/name, in a folder as in a tar."""
        return f"{self.classes[self.labels[image]]}/{os.fsdecode(self.names[image])}"


@dataclass
class Tree:
    """Picture i of `table` is the file `folder`/class/name."""

    folder: Path
    table: Table

    def read(self, image: int) -> bytes:
        return (self.folder / self.table.path(image)).read_bytes()

    def name(self, image: int) -> str:
        return str(self.folder / self.table.path(image))


@dataclass
class Shards:
    """Picture i of `table` is a part of a tar of `folder`. Each process opens each tar once."""

    folder: Path
    table: Table
    files: list[Path]
    _opened: dict[tuple[int, int], BinaryIO] = field(default_factory=dict, repr=False)

    def read(self, image: int) -> bytes:
        shard, start, size = (int(value) for value in np.asarray(self.table.places)[image])
        key = (os.getpid(), shard)  # a file that a parent opened shares its position with it
        if key not in self._opened:
            self._opened[key] = self.files[shard].open("rb")
        self._opened[key].seek(start)
        return self._opened[key].read(size)

    def name(self, image: int) -> str:
        return f"{self.folder}/*.tar: {self.table.path(image)}"


def shard_files(folder: Path) -> list[Path]:
    """The tars of a folder, by name."""
    return sorted(folder.glob("*.tar"))


def read_table(folder: Path) -> Table:
    """What the tars of `folder` hold, from its index or their headers; DataError where the two
    cannot belong together.
    """
    files = shard_files(folder)
    sizes = _sizes(files)
    if not (folder / _INDEX).exists():
        return _table(files)
    try:
        with np.load(folder / _INDEX) as index:
            table = Table(
                tuple(index["classes"].tolist()), index["labels"], index["names"], index["places"]
            )
            expected = index["files"].tolist()
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"{folder / _INDEX}: not a readable index ({error}); delete it, the tars suffice"
        ) from None
    if expected != sizes:
        wrong = sorted({name for name, _ in {*map(tuple, expected)} ^ {*map(tuple, sizes)}})
        raise DataError(
            f"{folder}: expected the {len(expected)} tars that {_INDEX} names, at their sizes; "
            "missing, cut short or new: "
            f"{', '.join(wrong[:3])}; copy them again, or delete {_INDEX} if the tars are right"
        )
    return table


def _table(files: list[Path]) -> Table:
    """The headers of tars, read one after another."""
    found = []
    for number, file in enumerate(files):
        try:
            with tarfile.open(file, "r:") as tar:
                for member in tar:
                    if member.isfile():
                        kind, _, name = member.name.removeprefix("./").rpartition("/")
                        found.append(
                            (kind, os.fsencode(name), number, member.offset_data, member.size)
                        )
        except (OSError, tarfile.TarError) as error:
            raise DataError(f"{file}: not a readable tar ({error}); copy it again") from None
    found.sort()
    classes = sorted({kind for kind, *_ in found})
    if not found or "" in classes:
        raise DataError(
            f"{files[0].parent}: expected tars with members <class>/<name>.JPEG, found some "
            "without a class"
        )
    numbers = {kind: number for number, kind in enumerate(classes)}
    labels = np.array([numbers[kind] for kind, *_ in found], dtype=np.int64)
    places = np.array([place for _, _, *place in found], dtype=np.int64)
    return Table(tuple(classes), labels, np.array([name for _, name, *_ in found]), places)


def read_tables(place: Path) -> dict[str, Table]:
    """The pictures of `place`/train and `place`/val; DataError where they are not two halves of
    one data set.
    """
    tables = {split: _listing(place, split) for split in ("train", "val")}
    _same_classes(place, tables["train"], tables["val"])
    return tables


def _listing(place: Path, split: str) -> Table:
    """The pictures of one split, sorted by class and name; DataError where there is none."""
    folder = place / split
    if not folder.is_dir():
        there = (
            "does not exist"
            if not place.is_dir()
            else f"holds {_some(sorted(p.name for p in place.iterdir()))}"
        )
        raise DataError(
            f"{place.name}: expected {place}/train/<class>/*.JPEG and {place}/val/<class>/*.JPEG, "
            f"but there is no {folder}; "
            f"{place} {there}. Put the data set there (a link will do), or set RM_DATA_DIR to the "
            "folder that holds "
            f"{place.name}, or the option root to the folder's name"
        )
    if shard_files(folder):
        return read_table(folder)
    with os.scandir(folder) as entries:
        classes = sorted(entry.name for entry in entries if entry.is_dir() and _is_shown(entry))
    if not classes:
        flat = sum(1 for path in folder.iterdir() if path.name.lower().endswith(_ENDINGS))
        there = (
            f"{flat} images without a class: move each into the folder of its class"
            if flat
            else "none"
        )
        raise DataError(
            f"{place.name}: expected a folder for each class in {folder}, "
            f"{folder}/<class>/*.JPEG, found {there}"
        )
    found = [_pictures(folder / name) for name in classes]
    names = [pictures for pictures, _ in found]
    left = zip(classes, (others for _, others in found), strict=True)
    if others := [f"{name}/{other}" for name, several in left for other in several]:
        read = ", ".join(_ENDINGS)
        said = f"{len(others)} pictures of {folder} are left out, as only {read} are read"
        print(f"{place.name}: {said}: {_some(others)}", file=sys.stderr, flush=True)
    if empty := [name for name, files in zip(classes, names, strict=True) if not files]:
        raise DataError(
            f"{place.name}: expected *.JPEG in every class folder of {folder}, found none in "
            f"{len(empty)} of {len(classes)}: "
            f"{_some(empty)}; unpack them again"
        )
    labels = np.repeat(np.arange(len(classes)), [len(files) for files in names])
    return Table(tuple(classes), labels, np.array([name for files in names for name in files]))


def _is_shown(entry: os.DirEntry[str]) -> bool:
    """Hidden ones are other programs' (`.ipynb_checkpoints`, `._0.png`)."""
    return not entry.name.startswith(".")


def _pictures(folder: Path) -> tuple[list[bytes], list[str]]:
    """The names of those that are read, sorted; and of those in other formats."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if _is_shown(entry)]
    read = sorted(os.fsencode(name) for name in names if name.lower().endswith(_ENDINGS))
    return read, sorted(name for name in names if name.lower().endswith(_OTHER_ENDINGS))


def _same_classes(place: Path, train: Table, val: Table) -> None:
    for here, there, name, other in ((train, val, "train", "val"), (val, train, "val", "train")):
        if missing := sorted(set(here.classes) - set(there.classes)):
            raise DataError(
                f"{place.name}: expected the same class folders in {place}/train and {place}/val; "
                f"{len(missing)} of "
                f"{place / name} are missing in {place / other}: {_some(missing)}"
            )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "") or "nothing"


def pack(folder: Path, table: Table, target: Path, shard_bytes: int = SHARD_BYTES) -> int:
    """Write the pictures of a `Tree` to `target` and return how many tars that makes; DataError
    where there are tars already.

    They are `.tar.part` until all are written: what an interrupted packing leaves is never taken
    for a data set.
    """
    target.mkdir(parents=True, exist_ok=True)
    if shard_files(target):
        raise DataError(
            f"{target}: expected a folder without tars, found {shard_files(target)[0].name}"
        )
    sizes = np.array([(folder / table.path(image)).stat().st_size for image in range(len(table))])
    numbers = np.cumsum(sizes) // shard_bytes
    parts = []
    for number in np.unique(numbers):
        parts.append(target / f"shard-{number:05}.tar.part")
        with tarfile.open(parts[-1], "w", dereference=True) as tar:
            for image in np.flatnonzero(numbers == number).tolist():
                tar.add(folder / table.path(image), table.path(image))
    files = [part.rename(part.with_suffix("")) for part in parts]
    packed = _table(files)
    np.savez(
        target / _INDEX,
        files=np.array(_sizes(files)),
        classes=np.array(packed.classes),
        labels=packed.labels,
        names=packed.names,
        places=np.asarray(packed.places),
    )
    return len(files)


def _sizes(files: list[Path]) -> list[list[str]]:
    return [[file.name, str(file.stat().st_size)] for file in files]


def main(arguments: list[str] | None = None) -> int:
    """The command `python -m rm.input.shards`."""
    parser = argparse.ArgumentParser(
        prog="python -m rm.input.shards", description="Pack a tree of pictures into tar files."
    )
    parser.add_argument(
        "source", type=Path, metavar="SOURCE", help="the folder that holds train and val"
    )
    parser.add_argument(
        "target",
        type=Path,
        metavar="TARGET",
        help="$RM_DATA_DIR/imagenet, or the name in the option root",
    )
    args = parser.parse_args(arguments)
    try:
        tables = read_tables(args.source)
        for split, table in tables.items():
            count = pack(args.source / split, table, args.target / split)
            print(
                f"{args.target / split}: {len(table):,} images of {len(table.classes)} classes "
                f"in {count} tars"
            )
    except (DataError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
