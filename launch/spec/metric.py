"""What the cells of a table show: a metric of finished trainings, or what a probe measured."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from launch.spec.grammar.fields import read_fields
from launch.spec.grammar.yaml_source import YamlSource
from launch.spec.trial import Trial
from rm import registry
from rm.metrics import Metric, recorded_as
from rm.registry.heads import metrics_of

EVALUATED = 10
"""How many evaluated epochs `median_last_10` is of."""


@dataclass(frozen=True)
class TableMetric:
    """What a cell shows: a metric at the best test epoch, the last, or the median of the last ten.

    Or what the probe of that name measured; there are no epochs then, and `select` is `measured`.
    also: further metrics that the paper prints for the same trainings, each a table of its own in
    the report.
    """

    name: str = "top1_error"
    select: Literal["best", "last", "median_last_10", "measured"] = "best"
    also: tuple[str, ...] = ()

    @property
    def is_measured(self) -> bool:
        """Whether a probe measured it: then there are no epochs, and nothing was trained."""
        return self.select == "measured"

    @property
    def metric(self) -> Metric:
        """Its label and unit, and which way is better."""
        return registry.metric(self.name)


@dataclass(frozen=True)
class _Fields:
    name: str = "top1_error"
    select: Literal["best", "last", "median_last_10", "measured"] = "best"
    also: list[str] = ()  # type: ignore[assignment]


def read_metric(source: YamlSource, written: Any, profile: Mapping[str, Any]) -> TableMetric:
    """`metric: {...}` of a spec; a profile may change keys of it, as `metric` or dotted."""
    changed = profile.get("metric", {})
    dotted = {k.partition(".")[2]: v for k, v in profile.items() if k.startswith("metric.")}
    written = {} if written is None else written
    if isinstance(written, Mapping) and isinstance(changed, Mapping):
        written = {**written, **changed, **dotted}
    found = read_fields(source, ("metric",), written, _Fields, "a metric", prefix="metric.")
    metric = TableMetric(**{**found, "also": tuple(found.get("also", ()))})
    names = (metric.name, *metric.also)
    for i, name in enumerate(names):
        at = ("metric", "also", i - 1) if i else ("metric", "name")
        try:
            registry.metric(name)
        except registry.RegistryError as error:
            source.error(at, f"metric.{at[1]}: {error}")
            return TableMetric()
    probes = registry.entries("probe")
    if any((name in probes) != metric.is_measured for name in names):
        valid = "measured" if metric.name in probes else "best, last or median_last_10"
        source.error(("metric",), f"metric: select must be {valid} for {metric.name}")
        return TableMetric()
    return metric


def check_metric(
    source: YamlSource, metric: TableMetric, cells: Mapping[tuple[str, ...], Trial]
) -> None:
    """Note the first cell, by its labels, whose trial cannot have this metric: one with another
    probe, or whose task does not report it.
    """
    at = ("metric",) if "metric" in source.data else ()
    wanted = metric.name if metric.is_measured else None
    for labels, trial in cells.items():
        found = trial.values.get("probe", {}).get("name")
        if found != wanted:
            has, goes = (f"probe '{name}'" if name else "no probe" for name in (found, wanted))
            message = f"metric '{metric.name}' goes with {goes}, but '{_row(labels)}' has {has}"
            return source.error(at, message, key=True)
        if "linear_top1" in (metric.name, *metric.also) and "freeze" not in trial.values:
            message = f"metric 'linear_top1' goes with a frozen backbone, and '{_row(labels)}' "
            message += "has none; valid: top1_accuracy, or freeze: backbone"
            return source.error(at, message, key=True)
        metrics = metrics_of(trial.values)
        for name in () if wanted else (metric.name, *metric.also):
            if recorded_as(name).partition(".")[0] not in metrics:
                reported = ", ".join(metrics)
                head = trial.values.get("head", {}).get("name")
                title = f"head '{head}'" if head else registry.task(trial.values).title
                message = f"{title} of '{_row(labels)}' reports {reported}, no {name}"
                return source.error(at, message, key=True)
    return None


def check_median(
    source: YamlSource, metric: TableMetric, cells: Mapping[tuple[str, ...], Trial]
) -> None:
    """Note the first cell that has no median of the last ten, as too few epochs are evaluated."""
    if metric.select != "median_last_10":
        return None
    for labels, trial in cells.items():
        epochs, every = trial.epochs, trial.values["train"]["evaluate_every"]
        late = range(9 * epochs // 10 + 1, epochs + 1)
        evaluated = sum(epoch % every == 0 or epoch == epochs for epoch in late)
        if evaluated < EVALUATED:
            message = (
                f"median_last_10 needs {EVALUATED} evaluated epochs in the last tenth of "
                f"training, but '{_row(labels)}' has {evaluated} (train.epochs {epochs}, "
                f"train.evaluate_every {every}); valid: best, last, or more evaluations"
            )
            return source.error(("metric", "select"), message)
    return None


def _row(labels: tuple[str, ...]) -> str:
    return " · ".join(labels)
