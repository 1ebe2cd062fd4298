"""A table as the page shows it: what the template asks for, by name."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from analysis.page.sentences import decided, ordered_states
from analysis.table import VERDICTS, CellResult, Table
from analysis.tables.text import CLAIM_MARKS
from rm.metrics import SELECTIONS

_ORIGINS = {"reproduced": "committed"}
"""Words for where a record comes from; `reproduced`, its folder, would read as a verdict."""


@dataclass(frozen=True)
class Drawing:
    """A figure on the page: its name, a sentence on what it shows, the inline SVG and its files
    relative to the page.
    """

    name: str
    caption: str
    svg: str
    files: tuple[str, ...]


@dataclass(frozen=True)
class View:
    """A table as the page shows it, with its figures and the sentence on its learning curves
    (empty: it has none).
    """

    table: Table
    figures: Sequence[Drawing] = ()
    curves: str = ""
    slug: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "slug", self.table.slug)

    @property
    def heading(self) -> str:
        title = self.table.spec.title
        return f"{title}, {self.table.metric.title}" if self.table.further else title

    @property
    def reduced(self) -> bool:
        return self.table.spec.variant is not None

    @property
    def others(self) -> list[str]:
        """The selections that stand beside the spec's own."""
        select = self.table.spec.metric.select
        if self.table.is_measured:
            return []
        names: list[str] = [name for name in SELECTIONS if name != select]
        cells = self.table.cells
        return [name for name in names if any(name in cell.estimates for cell in cells)] or names

    @property
    def cells(self) -> list[tuple[str, CellResult]]:
        return [(f"{self.slug}--{i}", cell) for i, cell in enumerate(self.table.cells)]

    @property
    def words(self) -> dict[str, str]:
        """What the filter knows a cell by: its verdict and the states of its trials."""
        return {
            id: "|".join(dict.fromkeys([cell.verdict.word, *states_of(cell)]))
            for id, cell in self.cells
        }

    @property
    def origins(self) -> dict[str, list[str]]:
        """Where a cell's runs come from, other than from here, and whether they are of former
        numerics.
        """
        return {
            id: sorted(
                {_ORIGINS.get(seed.origin, seed.origin) for seed in cell.seeds if seed.origin}
                | {"former numerics" for seed in cell.seeds if seed.numerics is not None}
            )
            for id, cell in self.cells
        }

    @property
    def states(self) -> list[tuple[str, int]]:
        return [(state, self.table.states[state]) for state in ordered_states(self.table.states)]

    @property
    def done(self) -> int:
        return self.table.states["finished"]

    @property
    def total(self) -> int:
        return sum(self.table.states.values())

    @property
    def unstarted(self) -> bool:
        """Whether nothing has happened yet, nor is quoted."""
        return set(self.table.states) == {"missing"} and self.samples is None

    @property
    def samples(self) -> tuple[int, int] | None:
        """Of a search: how many of its samples are decided, and how many there are to be."""
        search = self.table.spec.search
        return None if search is None else (decided(search), search.samples)

    @property
    def verdicts(self) -> list[tuple[str, int]]:
        counts = self.table.verdicts
        return (
            [(word, counts[word]) for word in VERDICTS if counts[word]]
            if self.table.has_published
            else []
        )

    @property
    def claims(self) -> list[tuple[str, int]]:
        counts = Counter(claim.result.word for claim in self.table.claims)
        return [(word, counts[word]) for word in CLAIM_MARKS if counts[word]]


def states_of(cell: CellResult) -> list[str]:
    """The state of each of a cell's trials, in the filter's words."""
    return ["no record" if seed.state == "missing" else seed.state for seed in cell.seeds]
