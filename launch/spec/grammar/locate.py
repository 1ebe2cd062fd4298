"""Where the specs and the weights that a trial starts from lie on this machine."""

import hashlib
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
