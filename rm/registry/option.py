"""One option of a choice: what it takes. Standard library only."""

import math
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin

_PHRASES = {
    float: "a number",
    int: "a whole number",
    bool: "true or false",
    str: "text",
    dict: "a mapping",
}
_CONDITION_NAMES: dict[str, Any] = {"len": len, "all": all}


@dataclass(frozen=True)
class Option:
    """One keyword-only parameter: its type, a condition on its value, its default."""

    name: str
    kind: Any
    condition: str | None
    required: bool
    default: Any = None

    def check(self, value: Any) -> Any:
        """The value as the trial has it (1 for a float is 1.0); ValueError says in one phrase what
        would have been valid. None, where it is allowed, meets every condition.
        """
        value = _typed(value, self.kind)
        if self.condition is None or value is None:
            return value
        if not holds(self.condition, {**_CONDITION_NAMES, self.name: value}):
            raise ValueError(f"must satisfy {self.condition}")
        return value


def holds(condition: str, names: Mapping[str, Any]) -> bool:
    """Whether an expression of our own source (or a plugin's) is true of these names; it knows
    nothing else, no builtins either.
    """
    return bool(eval(_compiled(condition), {"__builtins__": {}, **names}))


@cache
def _compiled(condition: str) -> types.CodeType:
    return compile(condition, "<condition>", "eval")


def _typed(value: Any, kind: Any) -> Any:
    """The value as one of `kind`; ValueError says what it must be."""
    if get_origin(kind) is Literal:
        if not any(value == valid and type(value) is type(valid) for valid in get_args(kind)):
            raise ValueError(f"must be {_alternatives(map(repr, get_args(kind)))}")
        return value
    if get_origin(kind) in (types.UnionType, Union):
        return _one_of(value, get_args(kind))
    if kind is Any:
        return value
    if (get_origin(kind) or kind) is list:
        if not isinstance(value, list | tuple):
            raise ValueError("must be a list")
        item_kind = (*get_args(kind), Any)[0]
        return [_typed(item, item_kind) for item in value]
    kind = get_origin(kind) or kind  # what is in a mapping is read by whoever knows its keys
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise ValueError(f"must be {_PHRASES[kind]}")
    if kind is float and not math.isfinite(value):
        raise ValueError("must be a finite number")
    return value


def _one_of(value: Any, kinds: tuple[Any, ...]) -> Any:
    """The value as the first of `kinds` that takes it: `int | None`."""
    if value is None and types.NoneType in kinds:
        return None
    reasons = []
    for kind in kinds:
        if kind is not types.NoneType:
            try:
                return _typed(value, kind)
            except ValueError as error:
                reasons.append(str(error))
    first, *others = dict.fromkeys(reasons)
    raise ValueError(" or ".join([first, *(other.removeprefix("must be ") for other in others)]))


def _alternatives(words: Iterable[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last
