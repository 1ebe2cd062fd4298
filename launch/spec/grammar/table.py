"""The cells of a spec: the product of its axes, or its rows, each resolved when it is asked for,
as one may start from another.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

from launch.spec.grammar.init import InitReader, unique_parents
from launch.spec.grammar.locate import RowIndex
from launch.spec.grammar.overrides import Overrides
from launch.spec.grammar.resolver import Resolver
from launch.spec.grammar.rows import Choice
from launch.spec.grammar.settings import SettingsLayer
from launch.spec.grammar.yaml_source import YamlSource
from launch.spec.resources import DEFAULT, Located, Resources
from launch.spec.spec import Cell, Spec
from launch.spec.trial import Trial


class Table:
    """All cells of one spec.

    above_rows         what counts more than a row: the profile's settings, then the command line's
    seeds, resources   (those that stand above every row, if any; those of the spec)
    published          labels -> metric -> the paper's number
    metric             the one that the table shows
    resolving          the cells that are being resolved now, one started from the next
    """

    def __init__(
        self,
        source: YamlSource,
        axes: Sequence[Sequence[Choice]],
        base: SettingsLayer,
        above_rows: tuple[SettingsLayer, Overrides],
        profile: str | None,
        load: Callable[[Path, str | None], Spec],
    ) -> None:
        self.source, self.base = source, base
        self.profile_layer, self.overrides = above_rows
        self.combinations = list(itertools.product(*axes))
        self.seeds: tuple[Sequence[int] | None, Sequence[int]] = (None, [0])
        self.resources: tuple[Located[Resources] | None, Located[Resources]] = (None, DEFAULT)
        self.used_resources: list[tuple[Located[Resources], Trial]] = []
        self.resolver = Resolver(source)
        self.init = InitReader(self.resolver, self, profile, load, self._nested)
        self.published: Mapping[tuple[str, ...], Mapping[str, float]] = {}
        self.metric = ""
        self.resolving: list[int] = []
        self._cells: dict[int, Cell | None] = {}
        self._texts: dict[int, str] = {}

    @cached_property
    def index(self) -> RowIndex:
        """Its rows by their names."""
        labels = (tuple(choice.label for choice in choices) for choices in self.combinations)
        return RowIndex(list(labels))

    def cells(self) -> tuple[Cell, ...]:
        """All that can be resolved."""
        found = map(self.cell, range(len(self.combinations)))
        return tuple(cell for cell in found if cell is not None)

    def cell(self, number: int) -> Cell | None:
        """One cell; None where something in it is wrong."""
        if number not in self._cells:
            self.resolving.append(number)
            self._cells[number] = self._resolve(self.combinations[number])
            self.resolving.pop()
        return self._cells[number]

    def above(self, layer: SettingsLayer) -> SettingsLayer:
        """A row's settings with what counts more."""
        return self.overrides.on(layer.merge(self.profile_layer))

    def _resolve(self, choices: Sequence[Choice]) -> Cell | None:
        labels = tuple(choice.label for choice in choices)
        numbers = dict(self.published.get(labels, {}))
        first = numbers.pop(self.metric, None)
        quoted = next((c.overrides.quoted for c in choices if c.overrides.quoted), "")
        if any(c.overrides.quoted and not c.layer.settings for c in choices):
            return Cell(labels, first, (), {}, numbers, quoted=quoted)
        layer = self.base
        for choice in choices:
            layer = layer.merge(choice.layer)
        layer = self.above(layer)
        values = self.resolver.values(layer.settings, ("trial",))
        own = [choice.overrides for choice in reversed(choices)]
        forced, usual = self.seeds
        seeds = forced or next((o.seeds for o in own if o.seeds), usual)
        starts = self.init.starts(layer.settings, values or {}, seeds, " · ".join(labels))
        if values is None or starts is None:
            return None
        trials = Trial.for_seeds(values, seeds, self._texts, [start.values for start in starts])
        above, everywhere = self.resources
        located = above or next((o.resources for o in own if o.resources), everywhere)
        self.used_resources.append((located, trials[0]))
        return Cell(
            labels,
            first,
            trials,
            layer.assumed,
            numbers,
            resources=located.value,
            parents=unique_parents(starts),
            quoted=quoted,
        )

    def _nested(self, layer: SettingsLayer) -> SettingsLayer:
        """A nested trial is written as a row is, on the spec's `trial`; what its child starts from
        and freezes is not its own.
        """

        def plain(layer: SettingsLayer) -> SettingsLayer:
            kept = {k: s for k, s in layer.settings.items() if k[0] not in ("init", "freeze")}
            return SettingsLayer(kept, layer.assumed)

        own = plain(self.base).merge(layer).merge(plain(self.profile_layer))
        return plain(self.overrides.on(own))
