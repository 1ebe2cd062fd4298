"""The one self-contained page of a table: `page.html.jinja` filled in. It needs no network and no script."""

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
from markupsafe import Markup

from analysis import tables
from analysis.results import SELECTION_NAMES, VERDICTS, SeedResult, Table, other_selection
from analysis.strip import Scale

MEANINGS = {
    "reproduced": "equivalent to the paper’s number: the 90 % interval lies within the margin (two one-sided tests at 5 %)",
    "consistent": "not shown to be equivalent, but the 95 % interval overlaps the margin",
    "differs": "the 95 % interval lies outside the margin",
    "missing": "too few finished seeds to say anything",
    "not comparable": "a reduced profile, or the paper has no number for the cell",
}


@dataclass(frozen=True)
class Drawing:
    """A figure on the page: its name, a sentence on what it shows, the inline SVG and its files relative to the page."""

    name: str
    caption: str
    svg: str
    files: tuple[str, ...]


@dataclass(frozen=True)
class Assumption:
    """A value that the paper does not state, why it was chosen, and the cells that it is in."""

    key: str
    value: str
    why: str
    cells: str


def to_html(table: Table, figures: list[Drawing], curves: Drawing | None, *, folder: Path, results: Path) -> str:
    """The page that will be written into `folder`; run directories below `results` become relative links."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    shown = (tables.metric_name, tables.unit, tables.number, tables.signed, tables.mean_std, tables.p_value)
    for function in (*shown, tables.seed_count):
        environment.globals[function.__name__] = function
    select = table.spec.metric.select
    return environment.get_template("page.html.jinja").render(
        marks={**tables.MARKS, **tables.CLAIM_MARKS},
        selection_names=SELECTION_NAMES,
        run_link=lambda seed: _run_link(seed, folder, results),
        table=table,
        spec=table.spec,
        summary=summary(table),
        states=[(state, table.states[state]) for state in _ordered_states(table)],
        legend={word: MEANINGS[word] for word in VERDICTS if word in table.verdicts} if table.has_published else {},
        scale=Scale(table),
        other=other_selection(select),
        others=[name for name in SELECTION_NAMES if name not in (select, other_selection(select), "measured")],
        inflation=table.inflation.mean if table.inflation else None,
        figures=[(figure, Markup(figure.svg)) for figure in figures],
        curves=(curves, Markup(curves.svg)) if curves else None,
        assumptions=assumptions(table),
        provenance=provenance(table),
    )


def summary(table: Table) -> list[str]:
    """What the page says, in two or three sentences."""
    total, done = sum(table.states.values()), table.states["finished"]
    others = [_state_words(state, table.states[state]) for state in _ordered_states(table) if state != "finished"]
    sentences = [f"{_all_of(done, total)} finished" + (f"; {_listed(others)}." if others else ".")]
    if table.has_published and not table.spec.profile:
        phrases = {"reproduced": "{} {is} reproduced", "consistent": "{} {is} consistent with the paper"}
        phrases |= {"differs": "{} {differ}", "missing": "{} {is} missing"}
        phrases |= {"not comparable": "{} {has} no published number"}
        sentences.append(_tally(len(table.cells), "cell", table.verdicts, phrases))
    elif not table.has_published:
        sentences.append("There are no published numbers for this table, so it shows estimates and tests claims.")
    if table.claims:
        words = Counter(claim.result.word for claim in table.claims)
        phrases = {"holds": "{} {hold}", "reversed": "{} {turn} out reversed", "undecided": "{} {stay} undecided"}
        phrases |= {"missing": "{} cannot be tested yet"}
        sentences.append(_tally(len(table.claims), "claimed comparison", words, phrases))
    return sentences


def assumptions(table: Table) -> list[Assumption]:
    """Every assumed value once, with the cells that it is in."""
    places: dict[tuple[str, str, str], list[tuple[str, ...]]] = {}
    for cell in table.spec.cells:
        flat = cell.trials[0].flat()
        for key, why in cell.assumed.items():
            value = flat.get(key, flat.get(f"{key}.name", ""))
            places.setdefault((key, str(value), why), []).append(tuple(cell.labels))
    return [Assumption(*what, _covered(table, where)) for what, where in places.items()]


def provenance(table: Table) -> dict[str, Any]:
    """Where the records come from: commits, hosts and devices with their number of runs, hours, the latest end."""
    records = table.records
    keys = ("git_commit", "host", "device")
    counted: dict[str, Any] = {key: Counter(map(str, records[key].dropna())).most_common() for key in keys}
    seconds = float(records["train_seconds"].dropna().sum()) if len(records) else 0.0
    ended = sorted(records["ended"].dropna())
    return counted | {"hours": _hours(seconds), "latest": str(ended[-1]).replace("T", " ")[:16] if ended else None}


def _run_link(seed: SeedResult, folder: Path, results: Path) -> Mapping[str, str | None]:
    """A run directory as text and, where it lies below the results folder, as a link that moves with it."""
    if not seed.run_dir:
        return {"text": None, "href": None}
    path = Path(seed.run_dir)
    path = path if path.is_absolute() else results.parent / path
    if path.is_relative_to(results):
        return {"text": seed.trial_id, "href": quote(Path(os.path.relpath(path, folder)).as_posix()) + "/"}
    return {"text": seed.run_dir, "href": None}


def _covered(table: Table, where: list[tuple[str, ...]]) -> str:
    if len(where) == len(table.cells):
        return "all cells"
    columns = list(dict.fromkeys(labels[-1] for labels in where))
    if len(where) == sum(cell.labels[-1] in columns for cell in table.cells):
        return ", ".join(columns)
    return ", ".join(" · ".join(labels) for labels in where)


_VERBS = {"is": "are", "has": "have", "was": "were", "differ": "differ", "hold": "hold", "turn": "turn", "stay": "stay"}
_SINGULAR = {"differ": "differs", "hold": "holds", "turn": "turns", "stay": "stays"}


def _tally(total: int, noun: str, counts: Mapping[str, int], phrases: Mapping[str, str]) -> str:
    """ "Of 8 cells, 3 are reproduced and 5 differ.", in the order of the phrases."""
    if total == 1:
        word = next(word for word in phrases if counts[word])
        return f"The only {noun} {_said(phrases[word], 1).removeprefix('1 ')}."
    return f"Of {total} {noun}s, {_listed([_said(phrases[word], counts[word]) for word in phrases if counts[word]])}."


def _said(phrase: str, n: int) -> str:
    verbs = {verb: _SINGULAR.get(verb, verb) if n == 1 else plural for verb, plural in _VERBS.items()}
    return phrase.format(n, **verbs)


def _ordered_states(table: Table) -> list[str]:
    order = ("finished", "running", "scheduled", "failed", "killed", "missing")
    return sorted(table.states, key=lambda state: order.index(state) if state in order else len(order))


def _state_words(state: str, n: int) -> str:
    words = {"missing": "{} {has} no record yet", "failed": "{} failed", "killed": "{} {was} stopped"}
    return _said(words.get(state, "{} {is} " + state), n)


def _all_of(done: int, total: int) -> str:
    if done == total:
        return "The only trial has" if total == 1 else f"All {total} trials have"
    return f"{done or 'None'} of {total} trial{'' if total == 1 else 's'} {'has' if done == 1 else 'have'}"


def _listed(items: list[str]) -> str:
    return " and ".join(part for part in (", ".join(items[:-1]), items[-1]) if part) if items else ""


def _hours(seconds: float) -> str | None:
    if not seconds:
        return None
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:,.1f} hours"
