"""A table as data: what every rendering writes, worked out once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analysis.table import SELECTION_NAMES, CellResult, ClaimTest, Table, companion_selection
from analysis.tables.text import (
    CLAIM_MARKS,
    MARKS,
    caption,
    companion_title,
    mean_std,
    notes,
    number,
    p_value,
    seed_count,
    seeds_for_power,
    share,
    signed,
)
from rm.metrics import SELECTIONS


@dataclass(frozen=True)
class Entry:
    """One place of a grid. word: the verdict that the text is, if it is one, and its mark; best:
    whether no other number of its group is better.
    """

    text: str
    word: str = ""
    mark: str = ""
    best: bool = False


@dataclass(frozen=True)
class Column:
    """A head, and whether the column holds texts or numbers."""

    head: str
    is_text: bool = False


@dataclass(frozen=True)
class Line:
    """One line of a grid; record is its cell in full precision, for whoever computes with it."""

    entries: tuple[Entry, ...]
    record: Mapping[str, Any]


@dataclass(frozen=True)
class Grid:
    """Lines in groups, between which a rule may stand."""

    columns: tuple[Column, ...]
    groups: tuple[tuple[Line, ...], ...]


@dataclass(frozen=True)
class Document:
    """Everything that is said of a table.

    cells    a line for each cell
    printed  the paper's own arrangement, rows by columns, each place in several lines; None for a
             table with one axis
    claims   None where there are none
    """

    title: str
    banner: str
    cells: Grid
    printed: Grid | None
    caption: str
    notes: tuple[str, ...]
    claims: Grid | None


def document(table: Table) -> Document:
    """The model of a table."""
    return Document(
        table.spec.title,
        table.banner,
        _cells(table),
        _printed(table) if table.is_grid else None,
        caption(table),
        tuple(notes(table)),
        _claims(table) if table.claims else None,
    )


def _cells(table: Table) -> Grid:
    axes = [axis.capitalize() for axis in table.spec.axes]
    labels = [" / ".join(axes[:-1]), axes[-1]] if table.is_grid else axes
    ours = f"Ours, {SELECTION_NAMES[table.spec.metric.select]}"
    columns = [*(Column(label, is_text=True) for label in labels), Column(ours)]
    if table.has_published:
        columns += [Column("Published"), Column("Difference"), Column("Verdict", is_text=True)]
    if not table.is_measured:
        columns.append(Column(companion_title(table)))
    columns.append(Column("Seeds"))
    return Grid(tuple(columns), tuple(_group(cells, table) for cells in table.groups))


def _group(cells: Sequence[CellResult], table: Table) -> tuple[Line, ...]:
    """Lines of cells that stand beside each other, the best of those that have finished marked;
    alone nothing is best.
    """
    means = [cell.ours.mean for cell in cells if cell.ours is not None]
    best = table.metric.best(means) if len(means) > 1 else None
    return tuple(
        _line(cell, table, first=i == 0, best=cell.ours is not None and cell.ours.mean == best)
        for i, cell in enumerate(cells)
    )


def _line(cell: CellResult, table: Table, *, first: bool, best: bool) -> Line:
    """first: the row's label stands once, at the first line of its group."""
    labels = (cell.row if first else "", cell.column) if table.is_grid else (cell.row,)
    entries = [*map(Entry, labels), Entry(mean_std(cell.ours), best=best)]
    if table.has_published:
        word = cell.verdict.word
        entries += [Entry(number(cell.published)), Entry(signed(cell.verdict.difference))]
        entries.append(Entry(word, word, MARKS[word]))
    if not table.is_measured:
        entries.append(Entry(mean_std(cell.companion)))
    entries.append(Entry(seed_count(cell)))
    return Line(tuple(entries), record(cell, table))


def _printed(table: Table) -> Grid:
    heads = [Column(" × ".join(table.spec.axes[:-1]), is_text=True)]
    heads += [Column(column) for column in table.columns]
    lines = []
    for row, group in zip(table.rows, table.groups, strict=True):
        cells = {cell.column: cell for cell in group}
        places = [
            Entry(_place(cells[column], table) if column in cells else "")
            for column in table.columns
        ]
        lines.append(Line((Entry(row), *places), {}))
    return Grid(tuple(heads), (tuple(lines),))


def _place(cell: CellResult, table: Table) -> str:
    lines = [f"{mean_std(cell.ours)} (n={seed_count(cell)})"]
    if table.has_published:
        word = cell.verdict.word
        lines += [f"paper {number(cell.published)}, {signed(cell.verdict.difference)}"]
        lines.append(f"{MARKS[word]} {word}")
    if not table.is_measured:
        lines.append(f"{companion_selection(cell.select)} {mean_std(cell.companion)}")
    return "\n".join(lines)


def _claims(table: Table) -> Grid:
    heads = ["Difference", "p (paired)", "p (Holm)", "n"]
    if table.has_power:
        heads += ["Power", "Seeds for 80 %"]
    columns = (Column("Claim", True), *map(Column, heads), Column("Verdict", True))
    lines = tuple(_claim(claim, with_power=table.has_power) for claim in table.claims)
    return Grid(columns, (lines,))


def _claim(claim: ClaimTest, *, with_power: bool) -> Line:
    result = claim.result
    texts = (
        claim.name + (f" ({claim.context})" if claim.context else ""),
        signed(result.difference),
        p_value(result.p),
        p_value(result.holm_p),
        str(result.n),
        *((share(result.power), seeds_for_power(claim)) if with_power else ()),
    )
    word = Entry(result.word, result.word, CLAIM_MARKS[result.word])
    return Line((*map(Entry, texts), word), {"reason": result.reason})


def record(cell: CellResult, table: Table) -> dict[str, Any]:
    """A cell in the long form: its labels, every estimate and the verdict, nothing rounded."""
    spec, ours = table.spec, cell.ours
    row: dict[str, Any] = {"spec": spec.name, "profile": spec.variant or "full"}
    row |= dict(zip(spec.axes, cell.labels, strict=True))
    row |= {"metric": spec.metric.name, "select": cell.select, "n": len(cell.finished)}
    row |= {key: getattr(ours, key, None) for key in ("mean", "std", "low", "high")}
    row |= {
        "published": cell.published,
        "difference": cell.verdict.difference,
        "margin": spec.margin,
        "verdict": cell.verdict.word,
        "tost_p": cell.verdict.tost_p,
        "note": table.note(cell) or None,
    }
    for selection in SELECTIONS:
        estimate = cell.estimates.get(selection)
        row |= {f"{selection}_{key}": getattr(estimate, key, None) for key in ("mean", "std")}
    row["selection_optimism"] = getattr(cell.selection_optimism, "mean", None)
    row["authors_n"] = max((float(one.n) for one in cell.authors.values()), default=None)
    for selection in SELECTIONS:
        row[f"authors_{selection}"] = getattr(cell.authors.get(selection), "mean", None)
    row["trials"] = " ".join(f"{seed.seed}:{seed.trial_id}" for seed in cell.seeds)
    return row
