"""The one self-contained page: `page.html.jinja` filled in, with its style and script in it. It
needs no network.
"""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from analysis.compare import INSIDE, OUTSIDE
from analysis.page.data import Curves, page_data
from analysis.page.interval_svg import IntervalScale
from analysis.page.notes import render_notes
from analysis.page.provenance import provenance
from analysis.page.sentences import assumptions, ordered_states, summary
from analysis.page.view import View
from analysis.table import SELECTION_NAMES, VERDICTS
from analysis.tables import text

HERE = Path(__file__).parent
MEANINGS = {
    "reproduced": "equivalent to the paper’s number: the 90 % interval lies within the margin "
    "(two one-sided tests at 5 %)",
    "consistent": "not shown to be equivalent, but the 95 % interval overlaps the margin",
    "differs": "the 95 % interval lies outside the margin",
    INSIDE: "one finished seed, within the margin: one value has no interval",
    OUTSIDE: "one finished seed, outside the margin: one value has no interval",
    "missing": "no finished seed",
    "not comparable": "a reduced or changed copy, or the paper has no number for the cell",
}
_FUNCTIONS = (
    text.number,
    text.signed,
    text.mean_std,
    text.p_value,
    text.seed_count,
    text.share,
    text.seeds_for_power,
)


def to_html(
    views: Sequence[View],
    curves: Curves,
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
    for function in _FUNCTIONS:
        environment.globals[function.__name__] = function
    states = _all_states(views)
    present = {word for view in views for word, _ in view.verdicts}
    return environment.get_template("page.html.jinja").render(
        css=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        js=Markup((HERE / "page.js").read_text(encoding="utf-8")),
        data=Markup(_json(page_data(views, curves, folder, results))),
        marks={**text.MARKS, **text.CLAIM_MARKS},
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
        *("table", "figures", "curves", "slug", "heading", "reduced", "others", "cells", "words"),
        *("origins", "states", "done", "total", "verdicts", "claims", "unstarted", "samples"),
    )
    table = view.table
    return {name: getattr(view, name) for name in names} | {
        "summary": summary(table),
        "scale": IntervalScale(table),
        "caption": text.caption(table),
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
    counts = ", ".join(f"{words[word]} {word}" for word in VERDICTS if words[word])
    trials = f"{states['finished']} of {sum(states.values())} distinct trials finished"
    sentences = [f"{len(views)} tables and figures; {trials}."]
    if counts:
        sentences.append(f"Cells with a published number at full scale: {counts}.")
    return sentences


def _all_states(views: Sequence[View]) -> Counter[str]:
    states = {
        seed.trial_id: seed.state
        for view in views
        for cell in view.table.cells
        for seed in cell.seeds
    }
    return Counter(states.values())


def _filter_words(views: Sequence[View]) -> list[tuple[str, list[tuple[str, int]]]]:
    """Every word that some cell can be filtered by, with the number of such cells: verdicts, and
    apart from them the states of trials.
    """
    counts = Counter(
        word for view in views for words in view.words.values() for word in words.split("|")
    )
    states = ["finished", "running", "scheduled", "failed", "killed", "no record"]
    states += sorted(counts.keys() - {*VERDICTS, *states})
    return [
        (kind, [(word, counts[word]) for word in order if counts[word]])
        for kind, order in (("by verdict", VERDICTS), ("by trial", states))
    ]


def _json(data: Any) -> str:
    """JSON that can stand in a script element whatever its texts hold."""
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
