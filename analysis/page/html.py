"""The one self-contained page: `page.html.jinja` filled in, with its style and script in it. It
needs no network.
"""

import html
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from analysis import tables
from analysis.page.data import CellCurves, page_data
from analysis.page.interval_svg import Scale
from analysis.page.sentences import assumptions, hours_of, ordered_states, summary
from analysis.results import SELECTION_NAMES, VERDICTS, CellResult, Table

HERE = Path(__file__).parent
MEANINGS = {
    "reproduced": "equivalent to the paper’s number: the 90 % interval lies within the margin "
    "(two one-sided tests at 5 %)",
    "consistent": "not shown to be equivalent, but the 95 % interval overlaps the margin",
    "differs": "the 95 % interval lies outside the margin",
    "missing": "too few finished seeds to say anything",
    "not comparable": "a reduced profile, or the paper has no number for the cell",
}


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
        metric = tables.metric_name(self.table.spec.metric.name)
        return (
            f"{self.table.spec.title}, {metric}" if self.table.further else self.table.spec.title
        )

    @property
    def reduced(self) -> bool:
        return self.table.spec.profile is not None

    @property
    def measured(self) -> bool:
        """Numbers that were measured at once have no epochs to select from."""
        return bool(self.table.spec.metric.select == "measured")

    @property
    def others(self) -> list[str]:
        """The selections that stand beside the spec's own."""
        select = self.table.spec.metric.select
        return (
            []
            if self.measured
            else [name for name in SELECTION_NAMES if name not in (select, "measured")]
        )

    @property
    def cells(self) -> list[tuple[str, CellResult]]:
        return [(f"{self.slug}--{i}", cell) for i, cell in enumerate(self.table.cells)]

    @property
    def words(self) -> dict[str, str]:
        """What the filter knows a cell by: its verdict and the states of its trials."""
        return {
            id: "|".join(dict.fromkeys([cell.verdict.word, *_states(cell)]))
            for id, cell in self.cells
        }

    @property
    def origins(self) -> dict[str, list[str]]:
        """Where a cell's runs come from, other than from here."""
        return {
            id: sorted({seed.origin for seed in cell.seeds if seed.origin})
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
    def verdicts(self) -> list[tuple[str, int]]:
        found = self.table.verdicts
        return (
            [(word, found[word]) for word in VERDICTS if found[word]]
            if self.table.has_published
            else []
        )

    @property
    def claims(self) -> list[tuple[str, int]]:
        found = Counter(claim.result.word for claim in self.table.claims)
        return [(word, found[word]) for word in tables.CLAIM_MARKS if found[word]]


def to_html(
    views: Sequence[View],
    curves: Mapping[tuple[str, str], CellCurves],
    *,
    title: str,
    folder: Path,
    results: Path,
    notes: str = "",
    reload: float | None = None,
) -> str:
    """The page that will be written into `folder`; run directories below `results` become relative
    links.

    curves  metric and trial id -> its learning curve, of those that are to be on the page
    notes   Markdown: headings, paragraphs and lists
    reload  the page loads itself again after so many seconds
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    for function in (
        tables.number,
        tables.signed,
        tables.mean_std,
        tables.p_value,
        tables.seed_count,
    ):
        environment.globals[function.__name__] = function
    states = _all_states(views)
    present = {word for view in views for word, _ in view.verdicts}
    return environment.get_template("page.html.jinja").render(
        css=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        js=Markup((HERE / "page.js").read_text(encoding="utf-8")),
        data=Markup(_json(page_data(views, curves, folder, results))),
        marks={**tables.MARKS, **tables.CLAIM_MARKS},
        selection_names=SELECTION_NAMES,
        title=title,
        reload=reload,
        views=[_shown(view) for view in views],
        lead=lead(views),
        states=[(state, states[state]) for state in ordered_states(states)],
        words=_filter_words(views),
        legend=[(word, MEANINGS[word]) for word in VERDICTS if word in present],
        provenance=provenance([view.table for view in views if not view.table.further]),
        notes=render_notes(notes) if notes else None,
    )


def _shown(view: View) -> dict[str, Any]:
    """All of a view, each thing worked out once, as the template asks for some of them often."""
    names = (
        "table",
        "figures",
        "curves",
        "slug",
        "heading",
        "reduced",
        "measured",
        "others",
        "cells",
        "words",
        "origins",
    )
    known = {
        name: getattr(view, name)
        for name in (*names, "states", "done", "total", "verdicts", "claims")
    }
    table = view.table
    return known | {
        "summary": summary(table),
        "scale": Scale(table),
        "caption": tables.caption(table),
        "assumptions": assumptions(table),
    }


def lead(views: Sequence[View]) -> list[str]:
    """The page's first sentences: one table's own, or counts over all."""
    if len(views) == 1:
        return []
    states, words = _all_states(views), Counter[str]()
    for view in views:
        if not view.reduced:
            words.update(dict(view.verdicts))
    told = ", ".join(f"{words[word]} {word}" for word in VERDICTS if words[word])
    tables_, trials = (
        f"{len(views)} tables and figures",
        f"{states['finished']} of {sum(states.values())} distinct trials finished",
    )
    return [f"{tables_}; {trials}."] + (
        [f"Cells with a published number at full scale: {told}."] if told else []
    )


def provenance(shown: Sequence[Table]) -> dict[str, Any]:
    """Where the records come from: commits, machines, versions with their number of runs, hours,
    the latest end.
    """
    records = (
        pd.concat([table.records for table in shown]).drop_duplicates("trial_id")
        if shown
        else pd.DataFrame()
    )
    keys = ("git_commit", "host", "device", "versions", "origin")
    counted: dict[str, Any] = {
        key: Counter(map(str, records[key].dropna())).most_common() if key in records else []
        for key in keys
    }
    ended = sorted(records["ended"].dropna())
    seconds = {"GPU time": 0.0, "CPU time": 0.0}
    for device, spent in zip(records["device"], records["train_seconds"], strict=True):
        if isinstance(spent, int | float) and spent == spent:
            kind, devices = _kind(device)
            seconds[kind] += spent * devices
    hours = [(kind, hours_of(spent)) for kind, spent in seconds.items() if spent]
    return counted | {
        "hours": hours,
        "latest": str(ended[-1]).replace("T", " ")[:16] if ended else None,
    }


def _kind(device: Any) -> tuple[str, int]:
    """What a run's time is counted as, and on how many devices it was spent: "2 x NVIDIA H200" has
    two.
    """
    text = str(device or "cpu")
    several = re.match(r"(\d+)\s*[x×]\s", text)
    if re.search(r"cpu|intel|amd|xeon|epyc", text, re.IGNORECASE):
        return "CPU time", 1
    return "GPU time", int(several[1]) if several else 1


def render_notes(text: str) -> dict[str, Any]:
    """Markdown of the simple kind, a title, headings, paragraphs and lists, as the page's own
    elements.
    """
    title, parts = "Notes", []
    for block in re.split(r"\n\s*\n", text.strip()):
        if block.startswith("# "):
            title = block[2:]
        elif block.startswith("## "):
            parts.append(f"<h3>{_inline(block[3:])}</h3>")
        elif block.startswith("* "):
            items = "".join(
                f"<li>{_inline(item)}</li>"
                for item in re.split(r"(?:^|\n)\* ", block)
                if item.strip()
            )
            parts.append(f"<ul>{items}</ul>")
        else:
            kind = ' class="source"' if block.startswith("Source:") else ""
            parts.append(f"<p{kind}>{_inline(block)}</p>")
    return {"title": title, "html": Markup("\n".join(parts))}


def _inline(text: str) -> str:
    return re.sub(
        r"`([^`]+)`", r"<code>\1</code>", html.escape(" ".join(text.split()), quote=False)
    )


def _states(cell: CellResult) -> list[str]:
    return ["no record" if seed.state == "missing" else seed.state for seed in cell.seeds]


def _all_states(views: Sequence[View]) -> Counter[str]:
    found = {
        seed.trial_id: seed.state
        for view in views
        for cell in view.table.cells
        for seed in cell.seeds
    }
    return Counter(found.values())


def _filter_words(views: Sequence[View]) -> list[tuple[str, int]]:
    """Every word that some cell can be filtered by, with the number of such cells: verdicts
    first.
    """
    found = Counter(
        word for view in views for words in view.words.values() for word in words.split("|")
    )
    order = [*VERDICTS, "finished", "running", "scheduled", "failed", "killed", "no record"]
    return [
        (word, found[word])
        for word in sorted(found, key=lambda w: order.index(w) if w in order else 99)
    ]


def _json(data: Any) -> str:
    """JSON that can stand in a script element whatever its texts hold."""
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
