"""The paper's numbers in a spec: nested as its axes are, or one in each row; by metric, where a
table prints several.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from launch.spec.grammar.yaml_source import YamlPath, YamlSource
from rm.registry import suggestion

Labels = tuple[str, ...]


def read_published(
    source: YamlSource,
    axes: Sequence[Sequence[str]],
    metrics: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    published: Any,
) -> dict[Labels, dict[str, float]]:
    """Labels of a cell -> metric -> the paper's number. What does not fit is noted at its
    place.

    axes     the labels of each axis
    metrics  with one metric the numbers are its; with several, each list of numbers stands under
             its metric's name
    rows     of a spec that is written line by line; there the numbers stand in the rows
    """
    reader = _Reader(source, axes, metrics)
    for i, row in enumerate(rows):
        if isinstance(row, dict) and "published" in row:
            reader.metrics_of(row["published"], ("rows", i, "published"), (str(row.get("row")),))
    if published is not None and rows:
        message = "with rows, 'published' stands in each row"
        source.error(("published",), message, key=True)
    elif published is not None:
        reader.metrics_of(published, ("published",), ())
    return reader.found


class _Reader:
    def __init__(
        self, source: YamlSource, axes: Sequence[Sequence[str]], metrics: Sequence[str]
    ) -> None:
        self.source, self.axes, self.metrics = source, axes, metrics
        self.found: dict[Labels, dict[str, float]] = {}

    def metrics_of(self, data: Any, at: YamlPath, labels: Labels) -> None:
        if len(self.metrics) == 1:
            self.numbers(data, at, labels, self.metrics[0])
        elif not isinstance(data, dict):
            self.source.error(
                at,
                f"with several metrics, numbers stand under {', '.join(self.metrics)}; found "
                f"{data!r}",
            )
        else:
            for metric, numbers in data.items():
                if metric in self.metrics:
                    self.numbers(numbers, (*at, metric), labels, metric)
                else:
                    self.source.error(
                        (*at, metric),
                        f"no metric '{metric}' here{suggestion(metric, self.metrics)}",
                        key=True,
                    )

    def numbers(self, data: Any, at: YamlPath, labels: Labels, metric: str) -> None:
        """Walk down the axes that `labels` does not name yet."""
        if len(labels) == len(self.axes):
            if isinstance(data, int | float) and not isinstance(data, bool):
                self.found.setdefault(labels, {})[metric] = float(data)
            elif data is not None:
                self.source.error(at, f"a published value is a number or null, found {data!r}")
            return
        valid = self.axes[len(labels)]
        if isinstance(data, list) and len(data) == len(valid):
            for i, (label, item) in enumerate(zip(valid, data, strict=True)):
                self.numbers(item, (*at, i), (*labels, label), metric)
        elif isinstance(data, dict):
            for key, item in data.items():
                if key in valid:
                    self.numbers(item, (*at, key), (*labels, key), metric)
                else:
                    self.source.error(
                        (*at, key), f"no label '{key}' here{suggestion(key, valid)}", key=True
                    )
        else:
            self.source.error(
                at, f"expected {len(valid)} published values ({', '.join(valid)}), found {data!r}"
            )
