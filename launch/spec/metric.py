"""What the cells of a table show: an error of finished trainings, or what a probe measured."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, model_validator

from rm import registry

ERRORS = ("top1_error", "top5_error")


def _metric_name(name: str) -> str:
    if name not in (*ERRORS, *registry.entries("probe")):
        raise ValueError(
            f"must be {', '.join(ERRORS)}, or a probe: {', '.join(registry.entries('probe'))}"
        )
    return name


MetricName = Annotated[str, AfterValidator(_metric_name)]


class Metric(BaseModel):
    """What a cell shows: an error in percent, at the best test epoch, the last, or the median of
    the last ten.

    Or what the probe of that name measured; there are no epochs then, and `select` is `measured`.
    also: further metrics that the paper prints for the same trainings, each a table of its own in
    the report.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    name: MetricName = "top1_error"
    select: Literal["best", "last", "median_last_10", "measured"] = "best"
    also: list[MetricName] = []

    @model_validator(mode="after")
    def _measured_by_probes(self) -> "Metric":
        if any(
            (name in ERRORS) == (self.select == "measured") for name in (self.name, *self.also)
        ):
            valid = "best, last or median_last_10" if self.name in ERRORS else "measured"
            raise ValueError(f"select must be {valid} for {self.name}")
        return self

    @property
    def is_measured(self) -> bool:
        """Whether a probe measured it: then there are no epochs, and nothing was trained."""
        return self.select == "measured"


def misfit(metric: Metric, cells: Mapping[tuple[str, ...], Mapping[str, Any]]) -> str | None:
    """The first cell, by its labels, whose trial cannot have this metric, as a sentence; None
    where all can.

    Either every cell's trial has the probe of the metric's name, or the metric is an error and
    none has any.
    """
    wanted = metric.name if metric.is_measured else None
    for labels, values in cells.items():
        found = values.get("probe", {}).get("name")
        if found != wanted:
            has, goes = (f"probe '{name}'" if name else "no probe" for name in (found, wanted))
            return f"metric '{metric.name}' goes with {goes}, but '{' · '.join(labels)}' has {has}"
    return None
