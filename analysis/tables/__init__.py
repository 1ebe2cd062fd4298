"""A table as Markdown, LaTeX and CSV, and on the terminal: one model of it, `model.Document`, and
one walk over that, `writers.write`. All of them say so when the profile is a reduced one.
"""

from typing import TYPE_CHECKING

from analysis.table import Table
from analysis.tables.model import document

if TYPE_CHECKING:
    from rich.console import Group


def to_markdown(table: Table) -> str:
    """Markdown for a README: the paper's grid where there are several axes, else a line per
    row.
    """
    from analysis.tables.writers import Markdown, write

    return write(document(table), Markdown()).text


def to_latex(table: Table) -> str:
    """A booktabs table, one line per cell, groups of rows divided by rules. Needs only
    \\usepackage{booktabs}. The best number of a group is bold.
    """
    from analysis.tables.writers import Latex, write

    return write(document(table), Latex(table.slug)).text


def to_csv(table: Table) -> str:
    """The long form: one line per cell, numbers in full precision, one column per axis; `read_csv`
    gives it back unchanged.
    """
    from analysis.tables.long_form import Csv
    from analysis.tables.writers import write

    return write(document(table), Csv(table.spec.axes)).text


def to_seeds_csv(table: Table) -> str:
    """A line for each seed, as `analysis.results` has it."""
    from analysis.tables.per_seed import to_seeds_csv

    return to_seeds_csv(table)


def to_terminal(table: Table) -> "Group":
    """The table and its claims for rich to print."""
    from analysis.tables.terminal import Terminal
    from analysis.tables.writers import write

    return write(document(table), Terminal()).group
