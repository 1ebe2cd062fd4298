"""The long form of a table: a line for each cell, as a data frame and as CSV."""

import io
from collections.abc import Sequence
from itertools import chain

import pandas as pd

from analysis.table import Table
from analysis.tables.model import Grid, document
from analysis.tables.writers import write

_TEXTS = ("spec", "profile", "metric", "select", "verdict", "note", "trials")


class Csv:
    """Only the cells, in full precision."""

    def __init__(self, axes: Sequence[str]) -> None:
        self.texts = {*_TEXTS, *axes}
        self.frame = pd.DataFrame()

    @property
    def text(self) -> str:
        text: str = self.frame.to_csv(index=False, lineterminator="\n")
        return text

    def head(self, title: str, banner: str) -> None:
        """A reduced profile says so in its column."""

    def cells(self, cells: Grid, printed: Grid | None) -> None:
        frame = pd.DataFrame([line.record for line in chain(*cells.groups)])
        self.frame = frame.astype(
            {
                name: "str" if name in self.texts else "int64" if name == "n" else "float64"
                for name in frame
            }
        )

    def foot(self, caption: str, notes: Sequence[str]) -> None:
        """Notes have their column."""

    def claims(self, claims: Grid) -> None:
        """Claims are of several cells."""


def to_frame(table: Table) -> pd.DataFrame:
    """One row per cell, numbers in full precision, one column per axis."""
    return write(document(table), Csv(table.spec.axes)).frame


def read_csv(text: str, axes: Sequence[str] = ()) -> pd.DataFrame:
    """A CSV of `to_csv` as it was: every float exact, and a row labelled "None" or "007" still
    that text.
    """
    frame = pd.read_csv(io.StringIO(text), dtype="str", keep_default_na=False, na_values=[""])
    texts = {*_TEXTS, *axes}
    return frame.astype(
        {name: "int64" if name == "n" else "float64" for name in frame if name not in texts}
    )
