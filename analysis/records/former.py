"""Records of former numerics: of trainings that the code of today would not repeat bit for bit.

`rm.NUMERICS` is part of a trial's id, so that such a record belongs to another id. Reports show it
in the trial's place, marked, until the trial is trained again.
"""

from collections.abc import Mapping
from typing import Any

from analysis.records.cache import Rows
from launch.spec.trial import trial_id
from rm import registry

FormerIds = Mapping[str, tuple[str, int]]
"""An id under former numerics -> the trial's id now, and those numerics."""


def former_ids(trials: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[str, int]]:
    """The ids that trials, given as {id: values}, had; of each the latest numerics first."""
    return {
        trial_id(values, numerics): (trial, numerics)
        for trial, values in trials.items()
        for numerics in range(registry.numerics(values) - 1, 0, -1)
    }


def as_of_today(rows: Rows, former: FormerIds) -> Rows:
    """Rows by trial id, with those of former ids in the place of trials that have no finished one:
    the latest numerics win. Their column `numerics` says what they are.
    """
    today = {trial: row for trial, row in rows.items() if trial not in former}
    for old, (trial, numerics) in former.items():
        if is_finished(rows.get(old)) and not is_finished(today.get(trial)):
            today[trial] = {**rows[old], "trial_id": trial, "numerics": numerics}
    return today


def is_finished(row: Mapping[str, Any] | None) -> bool:
    return row is not None and row["status"] == "FINISHED"
