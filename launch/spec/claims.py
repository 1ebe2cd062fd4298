"""What a paper claims of its numbers, as a spec writes it: "A < B", or "A, B, C within 0.3"."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from launch.spec.yaml_source import Document, Place, Problem
from rm.registry import suggestion


@dataclass(frozen=True)
class Claim:
    """`chain[0] < chain[1] < ...`, or, where `within` is a number, that no two of `chain` differ
    by more than that.

    The labels are those of the last axis. Claimed for every combination of the other axes, or for
    those alone that have the label `of`.
    """

    text: str
    chain: tuple[str, ...]
    within: float | None = None
    of: str | None = None


def read_claims(
    document: Document,
    claims: Sequence[Any],
    labels: Sequence[Sequence[str]],
    problems: list[Problem],
) -> tuple[Claim, ...]:
    """The claims of a spec whose axes have these labels; what cannot be read becomes a problem at
    its place.
    """
    read = []
    for i, item in enumerate(claims):
        at: Place = ("claims", i)
        of = None
        if isinstance(item, dict):
            text, of = item.get("claim"), item.get("of")
            if set(item) != {"claim", "of"} or not (isinstance(text, str) and isinstance(of, str)):
                message = (
                    f"a claim is a text, or {{claim: text, of: a label of another axis}}; "
                    f"found {item!r}"
                )
                problems.append(Problem(document.mark(at), message))
                continue
            valid = [label for axis in labels[:-1] for label in axis]
            if of not in valid:
                problems.append(
                    Problem(
                        document.mark((*at, "of")),
                        f"no label '{of}' of another axis{suggestion(of, valid)}",
                    )
                )
            at = (*at, "claim")
        else:
            text = str(item)
        claim = _read(document, text, at, labels[-1] if labels else (), problems)
        if claim is not None:
            read.append(Claim(text, claim[0], claim[1], of))
    return tuple(read)


def _read(
    document: Document, text: str, at: Place, labels: Sequence[str], problems: list[Problem]
) -> tuple[tuple[str, ...], float | None] | None:
    chain, within = _order(text) if " < " in text else _range(text, labels)
    if len(chain) < 2:
        message = f"a claim reads 'A < B' or 'A, B within 0.3', found '{text}'"
        problems.append(Problem(document.mark(at), message))
        return None
    for label in chain:
        if label not in labels:
            message = f"claim about unknown label '{label}'{suggestion(label, labels)}"
            problems.append(Problem(document.mark(at), message))
    return chain, within


def _order(text: str) -> tuple[tuple[str, ...], None]:
    return tuple(part.strip() for part in text.split(" < ")), None


def _range(text: str, labels: Sequence[str]) -> tuple[tuple[str, ...], float | None]:
    """Labels may hold commas themselves: the longest one that fits is taken each time."""
    listed, _, width = text.rpartition(" within ")
    try:
        within = float(width)
    except ValueError:
        return (), None
    if within <= 0:
        return (), None
    chain = []
    while listed:
        label = max(
            (label for label in labels if _starts(listed, label)),
            key=len,
            default=listed.partition(", ")[0],
        )
        chain.append(label)
        listed = listed[len(label) :].removeprefix(", ")
    return tuple(chain), within


def _starts(text: str, label: str) -> bool:
    return text == label or text.startswith(f"{label}, ")
