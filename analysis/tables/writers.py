"""The walk over a table's model, and what Markdown and LaTeX make of its parts."""

import re
from collections.abc import Sequence
from itertools import chain
from typing import Protocol, TypeVar

from analysis.tables.latex import latex_text
from analysis.tables.model import Document, Entry, Grid


class Writer(Protocol):
    """One format; the walk calls these in this order."""

    def head(self, title: str, banner: str) -> None: ...

    def cells(self, cells: Grid, printed: Grid | None) -> None: ...

    def foot(self, caption: str, notes: Sequence[str]) -> None: ...

    def claims(self, claims: Grid) -> None: ...


W = TypeVar("W", bound=Writer)


def write(document: Document, writer: W) -> W:
    """Hand every part of a table to a writer, in order; returns the writer."""
    writer.head(document.title, document.banner)
    writer.cells(document.cells, document.printed)
    writer.foot(document.caption, document.notes)
    if document.claims is not None:
        writer.claims(document.claims)
    return writer


class Markdown:
    """Markdown of tables with pipes, as GitHub shows it."""

    def __init__(self) -> None:
        self.blocks: list[str] = []

    @property
    def text(self) -> str:
        return "\n\n".join(self.blocks) + "\n"

    def head(self, title: str, banner: str) -> None:
        self.blocks.append(f"### {_markdown_text(title)}")
        if banner:
            self.blocks.append(f"> **{_markdown_text(banner)}**")

    def cells(self, cells: Grid, printed: Grid | None) -> None:
        self._grid(printed or cells)

    def foot(self, caption: str, notes: Sequence[str]) -> None:
        self.blocks.append(_markdown_text(caption))
        if notes:
            self.blocks.append("\n".join(f"- {_markdown_text(note)}" for note in notes))

    def claims(self, claims: Grid) -> None:
        self._grid(claims)

    def _grid(self, grid: Grid) -> None:
        heads = [_markdown_text(column.head) for column in grid.columns]
        rules = ["---" if i == 0 else "---:" for i in range(len(heads))]
        lines = [[self._entry(e) for e in line.entries] for line in chain(*grid.groups)]
        rows = (heads, rules, *lines)
        self.blocks.append("\n".join("| " + " | ".join(row) + " |" for row in rows))

    def _entry(self, entry: Entry) -> str:
        first, *rest = entry.text.split("\n")
        if rest:  # a place of the paper's grid: its number stands out
            value, n = first.split(" (n=")
            first = f"**{_markdown_text(value)}** (n={_markdown_text(n)}"
            return "<br>".join([first, *map(_markdown_text, rest)])
        return f"{entry.mark} {_markdown_text(first)}".lstrip()


class Latex:
    """A booktabs table with everything in its caption but the notes and the claims."""

    def __init__(self, slug: str = "") -> None:
        self.slug, self.title = slug, ""
        self.grid: Grid | None = None
        self.caption = ""

    @property
    def text(self) -> str:
        if self.grid is None:
            return ""
        columns = self.grid.columns
        rule = r"\midrule"
        groups = [[_latex_line(line.entries) for line in group] for group in self.grid.groups]
        lines = [
            "% needs \\usepackage{booktabs}",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{latex_text(f'{self.title}: {self.caption}')}}}",
            *([rf"\label{{tab:{self.slug}}}"] if self.slug else []),
            rf"\begin{{tabular}}{{{''.join('l' if one.is_text else 'r' for one in columns)}}}",
            r"\toprule",
            _latex_line([Entry(column.head) for column in columns]),
            rule,
            *groups[0],
            *(line for group in groups[1:] for line in (rule, *group)),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
        return "\n".join(lines) + "\n"

    def head(self, title: str, banner: str) -> None:
        self.title = f"{banner} {title}".lstrip()

    def cells(self, cells: Grid, printed: Grid | None) -> None:
        self.grid = cells

    def foot(self, caption: str, notes: Sequence[str]) -> None:
        self.caption = caption

    def claims(self, claims: Grid) -> None:
        """A paper's table has none."""


def _latex_line(entries: Sequence[Entry]) -> str:
    texts = ((latex_text(entry.text), entry.best) for entry in entries)
    return " & ".join(rf"\textbf{{{text}}}" if best else text for text, best in texts) + r" \\"


def _markdown_text(text: str) -> str:
    """Plain text that Markdown shows as it is, in a table too."""
    return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", text).replace("\n", " ")
