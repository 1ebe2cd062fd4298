"""What the data set of a trial needs of a machine. Standard library only."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rm import registry


def missing_data(dataset: Mapping[str, Any], data_dir: Path) -> str | None:
    """Which file or folder of LOOKS_FOR a resolved data set lacks on this machine; None if none.
    What is downloaded when it is missing, or comes with a package, looks for nothing.
    """
    name = dataset["name"]
    for wanted in registry.entry("dataset", name).looks_for:
        path = data_dir / wanted.format_map(dataset)
        if not path.exists():
            return (
                f"data set '{name}' is not on this machine: there is no {path}; `python "
                "launch/run.py doctor SPEC.yaml` says what to do, RM_DATA_DIR names another folder"
            )
    return None
