"""Where the specs and the weights that a trial starts from lie on this machine, and which row of
a table is meant.
"""

import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from launch.paths import ROOT, data_dir

EXPERIMENTS = ROOT / "experiments"


def weights_path(file: str) -> Path:
    """Where weights of this name are looked for: $RM_DATA_DIR/weights, or as given if absolute."""
    return data_dir() / "weights" / Path(file).expanduser()


@cache
def digest(path: Path, changed: int) -> str:
    """The sha256 of a file, read once for each time that it was `changed`."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find_spec(name: str, folder: Path) -> Path | None:
    """The file of the spec called `name`, beside another one or in experiments/."""
    for place in (folder, EXPERIMENTS):
        if (path := place / f"{name}.yaml").exists():
            return path
    return next(iter(sorted(EXPERIMENTS.rglob(f"{Path(name).name}.yaml"))), None)


def known_specs(folder: Path) -> list[str]:
    """What `find_spec` finds."""
    return sorted({p.stem for p in (*folder.glob("*.yaml"), *EXPERIMENTS.rglob("*.yaml"))})


class RowIndex:
    """The rows of a table by their names, each its labels joined with ` · `."""

    def __init__(self, labels: Sequence[tuple[str, ...]]) -> None:
        self.labels = labels
        self.names = [" · ".join(cell) for cell in labels]
        self._numbers: dict[str, list[int]] = {}
        for number, name in enumerate(self.names):
            self._numbers.setdefault(name, []).append(number)

    def find(self, row: str) -> list[int]:
        """The numbers of those that all of the labels name, else of those that have them all."""
        words = row.split(" · ")
        return self._numbers.get(row) or [
            number for number, cell in enumerate(self.labels) if all(w in cell for w in words)
        ]
