"""What a trial is judged by, and which of its epochs counts. Standard library only.

Planner, trainer, records, verdicts, claims, tables and figures all ask this module, so that a
number which is better when it is larger needs no second thought anywhere.
"""

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any, Literal, NamedTuple

Selection = Literal["best", "last", "median_last_10"]
SELECTIONS: tuple[Selection, ...] = ("best", "last", "median_last_10")
"""How one number is made of a training's evaluated epochs; a probe has none: it is `measured`."""

_MEDIAN_OF = 10
FLATTERED = "flattered"
"""The head whose median is `flattered_median`: `top1_error.flattered`."""


class Metric(NamedTuple):
    """One quantity that trials report.

    name     as specs and records write it: top1_error
    label    for tables and axes: "top-1 error"
    unit     "%", "points", or "" for a plain number
    better   which way is progress
    """

    name: str
    label: str
    unit: str
    better: Literal["lower", "higher"]

    @property
    def title(self) -> str:
        """Label and unit, for an axis: `top-1 error (%)`."""
        return f"{self.label} ({self.unit})" if self.unit else self.label

    def best(self, values: Iterable[float]) -> float:
        """The best of some values."""
        return max(values) if self.better == "higher" else min(values)

    def gain(self, ours: float, other: float) -> float:
        """By how much `ours` is better than `other`, in the metric's unit; negative: worse."""
        return ours - other if self.better == "higher" else other - ours


METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("top1_error", "top-1 error", "%", "lower"),
        Metric("top5_error", "top-5 error", "%", "lower"),
        Metric("top1_accuracy", "top-1 accuracy", "%", "higher"),
        Metric("top5_accuracy", "top-5 accuracy", "%", "higher"),
        Metric("linear_top1", "linear top-1 accuracy", "%", "higher"),
        Metric("neighbour_accuracy", "nearest-neighbour accuracy", "%", "higher"),
        Metric("loss", "loss", "", "lower"),
        Metric("box_ap", "box AP", "%", "higher"),
        Metric("box_ap50", "box AP50", "%", "higher"),
        Metric("box_ap75", "box AP75", "%", "higher"),
        Metric("mask_ap", "mask AP", "%", "higher"),
        Metric("mask_ap50", "mask AP50", "%", "higher"),
        Metric("mask_ap75", "mask AP75", "%", "higher"),
        Metric("miou", "mIoU", "%", "higher"),
        Metric("macc", "mAcc", "%", "higher"),
        Metric("aacc", "aAcc", "%", "higher"),
    )
}
"""The metrics of the tasks. A probe's is declared in its own file (`METRIC`)."""

_COMPLEMENTS = {
    "top1_accuracy": "top1_error",
    "top5_accuracy": "top5_error",
    "linear_top1": "top1_error",  # of a classification whose backbone is frozen
}


def recorded_as(name: str) -> str:
    """The metric under which a training records this one: an accuracy is 100 minus its error."""
    base, dot, head = name.partition(".")
    return _COMPLEMENTS.get(base, base) + dot + head


def from_recorded(name: str, value: float) -> float:
    """The value of a metric from what is recorded under `recorded_as(name)`."""
    return 100 - value if name.partition(".")[0] in _COMPLEMENTS else value


def best_epoch(evaluated: Sequence[Mapping[str, Any]], primary: Metric) -> Mapping[str, Any]:
    """The epoch with the best value of `test_<primary>`, the last one among equals.

    evaluated   epochs in order, each with `test_<primary>`; at least one
    """
    key = f"test_{primary.name}"
    best = primary.best(epoch[key] for epoch in evaluated)
    return next(epoch for epoch in reversed(evaluated) if epoch[key] == best)


def select(
    epochs: Sequence[Mapping[str, Any]], metrics: Sequence[Metric], total: int
) -> dict[str, float]:
    """What stands in result.json: best, last and median of each metric, and `best_epoch`.

    epochs    all epochs in order, as the journal has them; some have `test_<metric>`
    metrics   of the task, the primary one first: it alone chooses the best epoch, and the others
              are those of that epoch, as the authors' code has it
    total     number of epochs of the training

    `median_last_10_<metric>` is over the last ten epochs evaluated within the last tenth of the
    training, and absent where there are fewer; with it comes `flattered_median`.
    """
    primary = metrics[0]
    evaluated = [epoch for epoch in epochs if f"test_{primary.name}" in epoch]
    if not evaluated:
        return {}
    chosen, last = best_epoch(evaluated, primary), evaluated[-1]
    late = [epoch for epoch in evaluated if 10 * epoch["epoch"] > 9 * total][-_MEDIAN_OF:]
    found: dict[str, float] = {}
    for metric in metrics:
        key = f"test_{metric.name}"
        if key not in last:
            continue
        found[f"best_{metric.name}"] = chosen[key]
        found[f"last_{metric.name}"] = last[key]
        if len(late) == _MEDIAN_OF:
            found[f"median_last_10_{metric.name}"] = median(epoch[key] for epoch in late)
    if len(late) == _MEDIAN_OF:
        best = flattered_median(evaluated, primary)
        found[f"median_last_10_{primary.name}.{FLATTERED}"] = best
    return {**found, "best_epoch": chosen["epoch"]}


def flattered_median(evaluated: Sequence[Mapping[str, Any]], primary: Metric) -> float:
    """The best median over all heads of a network and over its last 9, 10 and 11 evaluated epochs:
    how the AMix authors' script chooses, on the test set. A network of one head has three medians.
    """
    key = f"test_{primary.name}"
    names = [name for name in evaluated[-1] if name == key or name.startswith(f"{key}.")]
    return primary.best(
        median(epoch[name] for epoch in evaluated[-count:])
        for name in names
        for count in (_MEDIAN_OF - 1, _MEDIAN_OF, _MEDIAN_OF + 1)
    )
