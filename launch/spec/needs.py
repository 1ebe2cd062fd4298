"""What trials need of this machine and it lacks, found before anything is begun."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from launch.paths import data_dir
from launch.spec.grammar.locate import weights_path
from launch.spec.trial import Trial
from rm import registry
from rm.registry.heads import missing_packages
from rm.registry.needs import missing_data


class Needs:
    """Looks for weights, packages and files, each once however many trials share it.

    data   whether data sets are looked for: no where trials run on other machines
    """

    def __init__(self, data: bool = True) -> None:
        self.data = data
        self._missing: dict[int, str | None] = {}
        self._kept: list[Any] = []
        """What the `id()`s are of."""

    def missing(self, trial: Trial) -> str | None:
        """What a trial lacks on this machine, as a sentence; None if nothing."""
        values = trial.values
        file = values["init"].get("file") if "init" in values else None
        if file is not None and not weights_path(file).exists():
            return f"init needs the weights {weights_path(file)}"
        if (packages := missing_packages(values)) is not None:
            return packages
        found = self._look(values.get("method"), registry.missing_files)
        if found is None and self.data and reads_data(values):
            found = self._look(values.get("dataset"), missing_data)
        return found

    def _look(
        self,
        section: Mapping[str, Any] | None,
        search: Callable[[Mapping[str, Any], Path], str | None],
    ) -> str | None:
        if section is None:
            return None
        if id(section) not in self._missing:  # cells share it, where they have the same
            self._kept.append(section)
            self._missing[id(section)] = search(section, data_dir())
        return self._missing[id(section)]


def reads_data(values: Mapping[str, Any]) -> bool:
    """A probe that measures labels or time may name a data set for its sizes alone."""
    if "probe" not in values:
        return True
    uses = registry.entry("probe", values["probe"]["name"]).uses
    return not uses or "dataset" in uses
