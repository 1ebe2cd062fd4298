"""What the page says of a table in words: counts as sentences, assumed values with the cells that
they are in.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from analysis.compare import INSIDE, OUTSIDE
from analysis.table import Table
from launch.spec.search import Search


@dataclass(frozen=True)
class Assumption:
    """A value that the paper does not state, why it was chosen, and the cells that it is in."""

    key: str
    value: str
    why: str
    cells: str


def summary(table: Table) -> list[str]:
    """What the page says, in two or three sentences."""
    total, done = sum(table.states.values()), table.states["finished"]
    others = [
        _state_words(state, table.states[state])
        for state in ordered_states(table.states)
        if state != "finished"
    ]
    sentences = [f"{_all_of(done, total)} finished" + (f"; {_join(others)}." if others else ".")]
    if (search := table.spec.search) is not None:
        stopped = sum(one.state == "stopped" for one in search.tried)
        early = f", {stopped} of them stopped early" if stopped else ""
        sentences.append(
            f"Of {search.samples} samples of its search {decided(search)} are decided{early}."
        )
    if table.has_published and not table.spec.variant:
        phrases = {
            "reproduced": "{} {is} reproduced",
            "consistent": "{} {is} consistent with the paper",
        }
        phrases |= {"differs": "{} {differ}", "missing": "{} {is} missing"}
        phrases |= {INSIDE: "{} {is} within the margin by one seed"}
        phrases |= {OUTSIDE: "{} {is} outside the margin by one seed"}
        phrases |= {"not comparable": "{} {has} no published number"}
        sentences.append(_summarise(len(table.cells), "cell", table.verdicts, phrases))
    elif not table.has_published:
        sentences.append(
            "There are no published numbers for this table, so it shows estimates and tests "
            "claims."
        )
    if table.claims:
        words = Counter(claim.result.word for claim in table.claims)
        phrases = {
            "holds": "{} {hold}",
            "reversed": "{} {turn} out reversed",
            "undecided": "{} {stay} undecided",
        }
        phrases |= {"missing": "{} cannot be tested yet"}
        sentences.append(_summarise(len(table.claims), "claimed comparison", words, phrases))
    return sentences


def decided(search: Search) -> int:
    """How many samples of a search have ended, or were stopped."""
    return sum(one.state != "undecided" for one in search.tried)


def assumptions(table: Table) -> list[Assumption]:
    """Every assumed value once, with the cells that it is in."""
    places: dict[tuple[str, str, str], list[tuple[str, ...]]] = {}
    for cell in table.spec.cells:
        flat = cell.trials[0].flat() if cell.trials else {}
        for key, why in cell.assumed.items():
            value = flat.get(key, flat.get(f"{key}.name", ""))
            places.setdefault((key, str(value), why), []).append(tuple(cell.labels))
    return [Assumption(*what, _cells_of(table, labels)) for what, labels in places.items()]


def _cells_of(table: Table, labels: list[tuple[str, ...]]) -> str:
    if len(labels) == len(table.cells):
        return "all cells"
    columns = list(dict.fromkeys(one[-1] for one in labels))
    if len(labels) == sum(cell.labels[-1] in columns for cell in table.cells):
        return ", ".join(columns)
    return ", ".join(" · ".join(one) for one in labels)


_VERBS = {
    "is": "are",
    "has": "have",
    "was": "were",
    "differ": "differ",
    "hold": "hold",
    "turn": "turn",
    "stay": "stay",
}
_SINGULAR = {"differ": "differs", "hold": "holds", "turn": "turns", "stay": "stays"}


def _summarise(
    total: int, noun: str, counts: Mapping[str, int], phrases: Mapping[str, str]
) -> str:
    """ "Of 8 cells, 3 are reproduced and 5 differ.", in the order of the phrases."""
    if total == 1:
        word = next(word for word in phrases if counts[word])
        return f"The only {noun} {_phrase(phrases[word], 1).removeprefix('1 ')}."
    return (
        f"Of {total} {noun}s, "
        f"{_join([_phrase(phrases[word], counts[word]) for word in phrases if counts[word]])}."
    )


def _phrase(phrase: str, n: int) -> str:
    verbs = {
        verb: _SINGULAR.get(verb, verb) if n == 1 else plural for verb, plural in _VERBS.items()
    }
    return phrase.format(n, **verbs)


def ordered_states(states: Mapping[str, int]) -> list[str]:
    order = ("finished", "running", "scheduled", "failed", "killed", "missing")
    return sorted(states, key=lambda state: order.index(state) if state in order else len(order))


def _state_words(state: str, n: int) -> str:
    words = {
        "missing": "{} {has} no record yet",
        "failed": "{} failed",
        "killed": "{} {was} stopped",
    }
    return _phrase(words.get(state, "{} {is} " + state), n)


def _all_of(done: int, total: int) -> str:
    if done == total:
        return "The only trial has" if total == 1 else f"All {total} trials have"
    return (
        f"{done or 'None'} of {total} trial{'' if total == 1 else 's'} "
        f"{'has' if done == 1 else 'have'}"
    )


def _join(items: list[str]) -> str:
    return (
        " and ".join(part for part in (", ".join(items[:-1]), items[-1]) if part) if items else ""
    )


def hours_of(seconds: float) -> str | None:
    if not seconds:
        return None
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:,.1f} hours"
