"""A table as Markdown, LaTeX and CSV, and on the terminal. All of them say so when the profile is
a reduced one.
"""

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis.compare import Estimate
from analysis.records.load import SELECTIONS
from analysis.results import SELECTION_NAMES, CellResult, ClaimTest, Table, other_selection
from launch.spec.load import Spec

if TYPE_CHECKING:
    from rich.console import Group

MARKS = {
    "reproduced": "✓",
    "consistent": "≈",
    "differs": "≠",
    "missing": "○",
    "not comparable": "–",
}
CLAIM_MARKS = {"holds": "✓", "reversed": "✗", "undecided": "?", "missing": "○"}
COLOURS = {
    "reproduced": "green",
    "consistent": "cyan",
    "differs": "red",
    "holds": "green",
    "reversed": "red",
}
_TEXTS = ("spec", "profile", "metric", "select", "verdict", "note", "trials")
METRIC_NAMES = {
    "top1_error": "top-1 error (%)",
    "top5_error": "top-5 error (%)",
    "overhead": "overhead over the baseline (%)",
    "samples": "share of pixels changed (%)",
}
_COUNTS = ("effective_classes",)
"""Metrics that are no percentages."""


def metric_name(name: str) -> str:
    """A metric as axes and captions call it; one without a name of its own is called what it
    is.
    """
    return METRIC_NAMES.get(name, name.replace("_", " "))


def unit(spec: Spec) -> str:
    """What differences and margins are in, with a space before it: " percentage points", or
    nothing for a count.
    """
    return "" if spec.metric.name in _COUNTS else " percentage points"


def number(value: float | None, digits: int = 2) -> str:
    """A value as it stands in a table; a dash for none."""
    return "–" if value is None else f"{value:.{digits}f}"


def signed(value: float | None, digits: int = 2) -> str:
    """A difference with its sign, the minus as a minus."""
    return "–" if value is None else f"{value:+.{digits}f}".replace("-", "−")


def mean_std(found: Estimate | None) -> str:
    """mean ± standard deviation, without the latter for one value."""
    if found is None:
        return "–"
    return (
        number(found.mean) if found.std is None else f"{number(found.mean)} ± {number(found.std)}"
    )


def seed_count(cell: CellResult) -> str:
    """How many of the cell's seeds have finished: "3" or "2 of 3"."""
    done, wanted = len(cell.finished), len(cell.seeds)
    return str(done) if done == wanted else f"{done} of {wanted}"


def p_value(p: float | None) -> str:
    """A p-value as journals print it."""
    if p is None:
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def headings(table: Table) -> list[str]:
    """The column heads of one line per cell, after its labels."""
    select = table.spec.metric.select
    compared = ["Published", "Difference", "Verdict"] if table.has_published else []
    other = (
        []
        if table.spec.metric.is_measured
        else [SELECTION_NAMES[other_selection(select)].capitalize()]
    )
    return [f"Ours, {SELECTION_NAMES[select]}", *compared, *other, "Seeds"]


def entries(cell: CellResult, table: Table) -> list[str]:
    """The texts of one cell's line under `headings`."""
    compared = (
        [number(cell.published), signed(cell.verdict.difference), cell.verdict.word]
        if table.has_published
        else []
    )
    other = [] if table.spec.metric.is_measured else [mean_std(cell.other)]
    return [mean_std(cell.ours), *compared, *other, seed_count(cell)]


def caption(table: Table) -> str:
    """The sentence under a table: what its numbers are."""
    spec = table.spec
    parts = [f"{metric_name(spec.metric.name)}, mean ± standard deviation over seeds (n − 1)"]
    if table.has_published:
        parts.append(
            f"margin ±{spec.margin:g}{unit(spec)}; published numbers without spread are treated "
            "as exact"
        )
    if table.inflation is not None:
        by = (
            "choosing the best epoch on the test set lowers the error by "
            f"{number(table.inflation.mean)} points on average"
        )
        parts.append(f"{by} (last epoch − best epoch, {table.inflation.n} runs)")
    return "; ".join(parts) + "."


def authors_note(cell: CellResult) -> str:
    """What the authors' released logs say of a cell: "authors' logs: 2.35 best epoch, 2.59 last
    epoch (n = 3)"; else nothing.
    """
    if not cell.authors:
        return ""
    said = ", ".join(
        f"{number(cell.authors[name].mean)} {SELECTION_NAMES[name]}" for name in SELECTIONS
    )
    return f"authors' logs: {said} (n = {cell.authors['best'].n})"


def notes(table: Table) -> list[str]:
    """A line for each cell whose word needs one, and one line for all cells without any finished
    seed.
    """
    empty = [" · ".join(cell.labels) for cell in table.cells if not cell.finished]
    lines = [
        f"{' · '.join(cell.labels)}: {said}"
        for cell in table.cells
        for said in (table.note(cell) if cell.finished else "", authors_note(cell))
        if said
    ]
    if len(empty) == len(table.cells):
        return [*lines, "no seed has finished yet"]
    return [*lines, f"no finished seed yet: {'; '.join(empty)}"] if empty else lines


def to_markdown(table: Table) -> str:
    """Markdown for a README: the paper's grid where there are several axes, else a line per
    row.
    """
    blocks = [f"### {_md(table.spec.title)}"]
    if table.banner:
        blocks.append(f"> **{_md(table.banner)}**")
    if table.is_grid:
        lines = [
            [_md(row), *(_md_cell(table, row, column) for column in table.columns)]
            for row in table.rows
        ]
        blocks.append(
            _md_table(
                [" × ".join(map(_md, table.spec.axes[:-1])), *map(_md, table.columns)], lines
            )
        )
    else:
        lines = [[_md(cell.row), *map(_md, _marked(cell, table))] for cell in table.cells]
        blocks.append(_md_table([_md(table.spec.axes[-1].capitalize()), *headings(table)], lines))
    blocks.append(_md(caption(table)))
    if notes(table):
        blocks.append("\n".join(f"- {_md(line)}" for line in notes(table)))
    if table.claims:
        lines = [[_md(text) for text in _claim_entries(claim)] for claim in table.claims]
        blocks.append(
            _md_table(["Claim", "Difference", "p (paired)", "p (Holm)", "n", "Verdict"], lines)
        )
    return "\n\n".join(blocks) + "\n"


def to_latex(table: Table) -> str:
    """A booktabs table, one line per cell, groups of rows divided by rules. Needs only
    \\usepackage{booktabs}.
    """
    names = [axis.capitalize() for axis in table.spec.axes]
    heads = (
        [" / ".join(names[:-1]), names[-1], *headings(table)]
        if table.is_grid
        else [names[0], *headings(table)]
    )
    body = []
    for i, row in enumerate(table.rows):
        if i and table.is_grid:
            body.append(r"\midrule")
        for j, cell in enumerate(table.in_row(row)):
            labels = [row if j == 0 else "", cell.column] if table.is_grid else [row]
            body.append(
                " & ".join(latex_text(text) for text in (*labels, *entries(cell, table))) + r" \\"
            )
    title = latex_text(
        " ".join(part for part in (table.banner, table.spec.title + ":", caption(table)) if part)
    )
    others = "r" if table.spec.metric.is_measured else "rr"
    columns = (
        "l" * (2 if table.is_grid else 1) + "r" + ("rrl" if table.has_published else "") + others
    )
    head = " & ".join(latex_text(text) for text in heads) + r" \\"
    lines = [
        "% needs \\usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{title}}}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        head,
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def to_frame(table: Table) -> pd.DataFrame:
    """The long form: one row per cell, numbers in full precision, one column per axis."""
    rows = []
    for cell in table.cells:
        ours = cell.ours
        row: dict[str, Any] = {"spec": table.spec.name, "profile": table.spec.profile or "full"}
        row |= dict(zip(table.spec.axes, cell.labels, strict=True))
        row |= {"metric": table.spec.metric.name, "select": cell.select, "n": len(cell.finished)}
        row |= {key: getattr(ours, key, None) for key in ("mean", "std", "low", "high")}
        row |= {
            "published": cell.published,
            "difference": cell.verdict.difference,
            "margin": table.spec.margin,
        }
        row |= {
            "verdict": cell.verdict.word,
            "tost_p": cell.verdict.tost_p,
            "note": table.note(cell) or None,
        }
        for selection in SELECTIONS:
            found = cell.estimates.get(selection)
            row |= {f"{selection}_{key}": getattr(found, key, None) for key in ("mean", "std")}
        row["inflation"] = getattr(cell.inflation, "mean", None)
        row["authors_n"] = float(cell.authors["best"].n) if cell.authors else None
        row |= {
            f"authors_{name}": getattr(cell.authors.get(name), "mean", None) for name in SELECTIONS
        }
        row["trials"] = " ".join(f"{seed.seed}:{seed.trial_id}" for seed in cell.seeds)
        rows.append(row)
    frame = pd.DataFrame(rows)
    texts = {*_TEXTS, *table.spec.axes}
    return frame.astype(
        {name: "str" if name in texts else "int64" if name == "n" else "float64" for name in frame}
    )


def to_csv(table: Table) -> str:
    """`to_frame` as CSV; `read_csv` gives it back unchanged."""
    text: str = to_frame(table).to_csv(index=False, lineterminator="\n")
    return text


def read_csv(text: str, axes: Sequence[str] = ()) -> pd.DataFrame:
    """A CSV of `to_csv` as it was: every float exact, and a row labelled "None" or "007" still
    that text.
    """
    frame = pd.read_csv(io.StringIO(text), dtype="str", keep_default_na=False, na_values=[""])
    texts = {*_TEXTS, *axes}
    return frame.astype(
        {name: "int64" if name == "n" else "float64" for name in frame if name not in texts}
    )


def to_terminal(table: Table) -> "Group":
    """The table and its claims for rich to print."""
    from rich.console import Group
    from rich.table import Table as RichTable
    from rich.text import Text

    grid = RichTable(title=Text(table.spec.title), title_justify="left")
    for name in table.spec.axes:
        grid.add_column(name, overflow="fold")
    for name in headings(table):
        grid.add_column(
            name, justify="left" if name == "Verdict" else "right", no_wrap=name != "Verdict"
        )
    for row in table.rows:
        for cell in table.in_row(row):
            colour = COLOURS.get(cell.verdict.word, "dim") if table.has_published else ""
            texts = [
                Text(text, colour if text == cell.verdict.word else "")
                for text in entries(cell, table)
            ]
            grid.add_row(*map(Text, cell.labels), *texts)
        if table.is_grid:
            grid.add_section()
    parts: list[Any] = [Text(table.banner, "bold yellow")] if table.banner else []
    parts += [grid, Text(caption(table), "dim")]
    parts += [Text(line, "dim") for line in notes(table)]
    tested = [claim for claim in table.claims if claim.result.p is not None]
    for claim in tested:
        name, difference, p, holm_p, n, word = _claim_entries(claim)
        reason = f"; {claim.result.reason}" if claim.result.reason else ""
        line = f"{word}: {name} (difference {difference}, p {p}, Holm {holm_p}, n {n}{reason})"
        parts.append(Text(line, COLOURS.get(claim.result.word, "")))
    if len(tested) < len(table.claims):
        parts.append(
            Text(
                f"{len(table.claims) - len(tested)} of {len(table.claims)} claims cannot be "
                "tested yet",
                "dim",
            )
        )
    return Group(*parts)


_LATEX = {
    **{char: "\\" + char for char in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "“": "``",
    "”": "''",
    "’": "'",
    "–": "--",
    "—": "---",
    "…": r"\ldots{}",
    **{char: f"${command}$" for char, command in {
        "±": r"\pm", "−": "-", "×": r"\times", "·": r"\cdot", "→": r"\to", "≤": r"\le", "≥": r"\ge", "≈": r"\approx",
        "≠": r"\ne", "α": r"\alpha", "β": r"\beta", "γ": r"\gamma", "λ": r"\lambda", "ω": r"\omega", "ε": r"\varepsilon",
        "σ": r"\sigma", "μ": r"\mu", "θ": r"\theta",
    }.items()},
}  # fmt: skip


def latex_text(text: str) -> str:
    """Any text as LaTeX prints it: special characters escaped, Greek letters and signs in
    mathematics.
    """
    pieces = re.findall(r".\u0303?", text, flags=re.DOTALL)
    return "".join(
        _tilde(piece[0])
        if piece.endswith("\u0303") and len(piece) > 1
        else _LATEX.get(piece, piece)
        for piece in pieces
    )


def _tilde(char: str) -> str:
    return rf"$\tilde{{{_LATEX.get(char, char).strip('$')}}}$"


def _md(text: str) -> str:
    """Plain text that Markdown shows as it is, in a table too."""
    return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", text).replace("\n", " ")


def _md_table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [heads, ["---"] + ["---:"] * (len(heads) - 1), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _md_cell(table: Table, row: str, column: str) -> str:
    cell = next((cell for cell in table.in_row(row) if cell.column == column), None)
    if cell is None:
        return ""
    lines = [f"**{mean_std(cell.ours)}** (n={seed_count(cell)})"]
    if table.has_published:
        word = f"{MARKS[cell.verdict.word]} {cell.verdict.word}"
        lines += [f"paper {number(cell.published)}, {signed(cell.verdict.difference)}", word]
    if not table.spec.metric.is_measured:
        lines.append(
            f"{SELECTION_NAMES[other_selection(cell.select)].split()[0]} {mean_std(cell.other)}"
        )
    return "<br>".join(lines)


def _marked(cell: CellResult, table: Table) -> list[str]:
    texts = entries(cell, table)
    if table.has_published:
        texts[3] = f"{MARKS[cell.verdict.word]} {texts[3]}"
    return texts


def _claim_entries(claim: ClaimTest) -> list[str]:
    name = claim.name + (f" ({claim.context})" if claim.context else "")
    result = claim.result
    word = f"{CLAIM_MARKS[result.word]} {result.word}"
    return [
        name,
        signed(result.difference),
        p_value(result.p),
        p_value(result.holm_p),
        str(result.n),
        word,
    ]
