"""What figures a spec can draw and with which options, read from the source of `analysis/figures`.

Nothing is imported from there, as drawing needs matplotlib and a plan does not. The registry is
the file system: `draw: sweep` is `draw(spec, records, *, ...)` in `analysis/figures/sweep.py`. Of
its keyword-only parameters `curves` and `artifacts` are handed in by the report, the others are
the figure's options. Standard library only.
"""

import ast
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from launch.paths import ROOT

FOLDER = ROOT / "analysis" / "figures"
SOURCES = ("curves", "artifacts")
"""Parameters of a figure that a spec cannot set."""

_PHRASES = {
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "Sequence": "a list",
    "list": "a list",
    "Mapping": "a mapping",
    "dict": "a mapping",
    "None": "null",
}


class Option(NamedTuple):
    """One option: the names of the types it takes (`Any` for all), and whether it must be set."""

    kinds: tuple[str, ...]
    required: bool


class FigureSignature(NamedTuple):
    """The parameters of one figure's `draw`.

    sources   which of SOURCES it reads
    options   by name
    """

    sources: tuple[str, ...]
    options: Mapping[str, Option]


def names() -> list[str]:
    """Every `draw` that a spec can name."""
    return sorted(path.stem for path in FOLDER.glob("[!_]*.py"))


def signature(draw: str) -> FigureSignature:
    """The signature of one of `names()`."""
    return _read(FOLDER / f"{draw}.py")


def check(draw: str, options: Mapping[str, Any]) -> list[tuple[str | None, str]]:
    """What is wrong with the options of a figure: (the option, or None for one that is not there;
    a sentence).
    """
    known = signature(draw).options
    valid = f"valid: {', '.join(known) or 'none'}"
    wrong: list[tuple[str | None, str]] = [
        (name, f"{draw}: unknown option '{name}'; {valid}")
        for name in options
        if name not in known
    ]
    for name, option in known.items():
        if name in options and not any(_fits(options[name], kind) for kind in option.kinds):
            phrase = " or ".join(_PHRASES[kind] for kind in option.kinds)
            wrong.append((name, f"{draw}: {name} must be {phrase}, found {options[name]!r}"))
        elif name not in options and option.required:
            wrong.append((None, f"{draw}: option '{name}' is required; {valid}"))
    return wrong


@cache
def _read(path: Path) -> FigureSignature:
    module = ast.parse(path.read_text(encoding="utf-8"), str(path))
    aliases = {
        node.targets[0].id: node.value
        for node in module.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    draw = next(
        node for node in module.body if isinstance(node, ast.FunctionDef) and node.name == "draw"
    )
    parameters = dict(
        zip((one.arg for one in draw.args.kwonlyargs), draw.args.kw_defaults, strict=True)
    )
    annotations = {one.arg: one.annotation for one in draw.args.kwonlyargs}
    return FigureSignature(
        tuple(name for name in parameters if name in SOURCES),
        {
            name: Option(_kinds(annotations[name], aliases), default is None)
            for name, default in parameters.items()
            if name not in SOURCES
        },
    )


def _kinds(annotation: ast.expr | None, aliases: Mapping[str, ast.expr]) -> tuple[str, ...]:
    """`Mapping[str, Any] | None` -> ("Mapping", "None"); what is inside brackets is not looked
    at, and a type that this module does not know takes everything.
    """
    if isinstance(annotation, ast.BinOp):
        kinds = (*_kinds(annotation.left, aliases), *_kinds(annotation.right, aliases))
        return ("Any",) if "Any" in kinds else kinds
    if isinstance(annotation, ast.Subscript):
        return _kinds(annotation.value, aliases)
    if isinstance(annotation, ast.Constant) and annotation.value is None:
        return ("None",)
    if isinstance(annotation, ast.Name):
        if annotation.id in aliases:
            return _kinds(aliases[annotation.id], aliases)
        return (annotation.id if annotation.id in _PHRASES else "Any",)
    return ("Any",)


def _fits(value: Any, kind: str) -> bool:
    if kind == "Any":
        return True
    if kind in ("int", "float"):
        whole = isinstance(value, int) and not isinstance(value, bool)
        return whole or (kind == "float" and isinstance(value, float))
    types: Mapping[str, type] = {
        "str": str, "bool": bool, "Sequence": list, "list": list, "Mapping": dict, "dict": dict,
        "None": type(None),
    }  # fmt: skip
    return isinstance(value, types[kind])
