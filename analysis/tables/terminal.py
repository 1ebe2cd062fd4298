"""A table on the terminal, by rich."""

from collections.abc import Sequence
from itertools import chain
from typing import Any

from rich.console import Group
from rich.table import Table as RichTable
from rich.text import Text

from analysis.compare import INSIDE, OUTSIDE
from analysis.tables.model import Grid, Line

COLOURS = {
    "reproduced": "green",
    "consistent": "cyan",
    "differs": "red",
    INSIDE: "cyan",
    OUTSIDE: "red",
    "holds": "green",
    "reversed": "red",
}


class Terminal:
    """What rich prints, part by part."""

    def __init__(self) -> None:
        self.title = ""
        self.parts: list[Any] = []

    @property
    def group(self) -> Group:
        return Group(*self.parts)

    def head(self, title: str, banner: str) -> None:
        self.title = title
        if banner:
            self.parts.append(Text(banner, "bold yellow"))

    def cells(self, cells: Grid, printed: Grid | None) -> None:
        grid = RichTable(title=Text(self.title), title_justify="left")
        for column in cells.columns:
            if column.is_text:
                grid.add_column(Text(column.head), overflow="fold")
            else:
                grid.add_column(Text(column.head), justify="right", no_wrap=True)
        for group in cells.groups:
            for line in group:
                grid.add_row(*(Text(e.text, _colour(e.word)) for e in line.entries))
            if len(cells.groups) > 1:
                grid.add_section()
        self.parts.append(grid)

    def foot(self, caption: str, notes: Sequence[str]) -> None:
        self.parts += [Text(line, "dim") for line in (caption, *notes)]

    def claims(self, claims: Grid) -> None:
        lines = list(chain(*claims.groups))
        tested = [line for line in lines if line.entries[2].text != "–"]
        self.parts += map(_claim, tested)
        if len(tested) < len(lines):
            untested = f"{len(lines) - len(tested)} of {len(lines)} claims cannot be tested yet"
            self.parts.append(Text(untested, "dim"))


def _claim(line: Line) -> Text:
    name, difference, p, holm_p, n, *power, word = line.entries
    reason = f"; {line.record['reason']}" if line.record["reason"] else ""
    numbers = f"difference {difference.text}, p {p.text}, Holm {holm_p.text}, n {n.text}"
    if power:
        numbers += f", power {power[0].text}, seeds for 80 % {power[1].text}"
    numbers += reason
    return Text(f"{word.mark} {word.text}: {name.text} ({numbers})", _colour(word.word))


def _colour(word: str) -> str:
    return COLOURS.get(word, "dim") if word else ""
