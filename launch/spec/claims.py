"""What a paper claims of its numbers, as a spec writes it: "A < B", "A > B by 0.5", or "A, B, C
within 0.3". `<` and `>` are arithmetic on the numbers as printed: for an accuracy, "A > B" says
that A is better.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import chain, product
from typing import Any, Literal

from launch.spec.grammar.yaml_source import YamlPath, YamlSource
from rm.registry import suggestion

_FORM = "a claim reads 'A < B', 'A > B by 0.5', or 'A, B within 0.3'"


@dataclass(frozen=True)
class Claim:
    """Of numbers as printed: `chain[0] < chain[1] < ...`, each by at least `by`; or, where
    `within` is a number, that no two of `chain` differ by more than that.

    The labels are those of the last axis; "A > B" has the chain B, A, and the `sign` as it was
    written. Claimed for every combination of the other axes, or for those alone that have the
    label `of`.
    """

    text: str
    chain: tuple[str, ...]
    within: float | None = None
    of: str | None = None
    by: float = 0.0
    sign: Literal["<", ">"] = "<"


def read_claims(
    source: YamlSource,
    claims: Sequence[Any],
    labels: Sequence[Sequence[str]],
    untried: Collection[tuple[str, ...]] = (),
) -> tuple[Claim, ...]:
    """The claims of a spec whose axes have these labels.

    untried   labels of cells that are quoted, without a trial
    """
    found = []
    for i, item in enumerate(claims):
        at: YamlPath = ("claims", i)
        of = None
        if isinstance(item, dict):
            text, of = item.get("claim"), item.get("of")
            if set(item) != {"claim", "of"} or not (isinstance(text, str) and isinstance(of, str)):
                source.error(
                    at,
                    "a claim is a text, or {claim: text, of: a label of another axis}; "
                    f"found {item!r}",
                )
                continue
            valid = [label for axis in labels[:-1] for label in axis]
            if of not in valid:
                message = f"no label '{of}' of another axis{suggestion(of, valid)}"
                source.error((*at, "of"), message)
            at = (*at, "claim")
        else:
            text = str(item)
        claim = _read(source, text, at, labels[-1] if labels else (), of)
        if claim is not None:
            found.append(claim)
            if untried:
                _check_tried(source, claim, at, labels, untried)
    return tuple(found)


def _read(
    source: YamlSource, text: str, at: YamlPath, labels: Sequence[str], of: str | None
) -> Claim | None:
    orders = [sign for sign in (" < ", " > ") if sign in text]
    if len(orders) == 2:
        source.error(at, f"{_FORM}, with < or > and not both; found '{text}'")
        return None
    claim = _order(text, orders[0], labels, of) if orders else _range(text, labels, of)
    if claim is None or len(claim.chain) < 2:
        source.error(at, f"{_FORM}, found '{text}'")
        return None
    for label in claim.chain:
        if label not in labels:
            source.error(at, f"claim about unknown label '{label}'{suggestion(label, labels)}")
    return claim


def _check_tried(
    source: YamlSource,
    claim: Claim,
    at: YamlPath,
    labels: Sequence[Sequence[str]],
    untried: Collection[tuple[str, ...]],
) -> None:
    """A claim is judged wherever all that it is about has been trained: somewhere at least."""
    others = [one for one in product(*labels[:-1]) if claim.of is None or claim.of in one]
    absent = [[label for label in claim.chain if (*one, label) in untried] for one in others]
    if absent and all(absent):
        quoted = ", ".join(f"'{label}'" for label in dict.fromkeys(chain.from_iterable(absent)))
        message = f"claim about {quoted}, quoted without a trial: nothing of ours can judge it"
        source.error(at, message)


def _order(text: str, sign: str, labels: Sequence[str], of: str | None) -> Claim | None:
    listed, by = text, 0.0
    found = re.fullmatch(r"(.+) by (\S+)", text)
    if found and text.split(sign)[-1].strip() not in labels:  # a label may end so itself
        listed, width = found[1], _positive(found[2])
        if width is None:
            return None
        by = width
    chain = [part.strip() for part in listed.split(sign)]
    if sign == " < ":
        return Claim(text, tuple(chain), of=of, by=by)
    return Claim(text, tuple(reversed(chain)), of=of, by=by, sign=">")


def _range(text: str, labels: Sequence[str], of: str | None) -> Claim | None:
    """Labels may hold commas themselves: the longest one that fits is taken each time."""
    listed, _, width = text.rpartition(" within ")
    within = _positive(width)
    if within is None:
        return None
    chain = []
    while listed:
        label = max(
            (label for label in labels if _starts(listed, label)),
            key=len,
            default=listed.partition(", ")[0],
        )
        chain.append(label)
        listed = listed[len(label) :].removeprefix(", ")
    return Claim(text, tuple(chain), within, of)


def _positive(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if 0 < number < float("inf") else None


def _starts(text: str, label: str) -> bool:
    return text == label or text.startswith(f"{label}, ")
