"""Choices from files outside `rm`, as `plugins: [mixes/mine.py]` in a spec names them. Standard
library only.

Such a file is like one of `rm/methods/`, `rm/backbones/` and so on, and says which by a literal:
`SECTION = "method"`. The sha256 of its content stands beside the choice in a trial's values, and
so in its id: another content is another trial. Planning reads the file's source. A run directory
holds a copy, from which the worker imports it, wherever it runs.
"""

import ast
import hashlib
import importlib
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rm.registry.source import Entry, Option, RegistryError, read_choices

FOLDER = "plugins"
"""Of a run directory."""
DIGITS = 12
_COPY = re.compile(rf"rm_plugin_([0-9a-f]{{{DIGITS}}})_(\w+)")


@dataclass(frozen=True)
class PluginEntry(Entry):
    """digest: the first digits of the sha256 of its file."""

    digest: str = ""


_known: dict[str, dict[str, PluginEntry]] = {}
_contents: dict[str, tuple[str, bytes]] = {}
"""By digest: how a copy is called, and what is in it."""


def entries(section: str) -> Mapping[str, PluginEntry]:
    return _known.get(section, {})


def use(
    path: Path, own: Mapping[str, Mapping[str, Entry]], classes: tuple[str, ...], *, again: bool
) -> list[str]:
    """Offer what a file defines; returns the names.

    own      section -> name -> what `rm` has itself, which cannot be replaced
    classes  sections whose choices are classes
    again    whether another content may stand in the place of an earlier one

    RegistryError for a file that cannot be read or offered.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RegistryError(f"{path}: cannot be read: {error.strerror}") from None
    digest = hashlib.sha256(content).hexdigest()[:DIGITS]
    copy = _COPY.fullmatch(path.stem)
    stem = copy[2] if copy else path.stem
    section = _section(path, content)
    if section not in own:
        raise RegistryError(
            f"{path}: a plugin says what it has by SECTION = one of {', '.join(map(repr, own))}; "
            f"found {section!r}"
        )
    found = read_choices(path.with_suffix(""), section, classes=section in classes)
    if not found:
        raise RegistryError(f"{path}: defines no public function, and so no {section}")
    for name, entry in found.items():
        name = stem if section in classes else name
        if name in own[section]:
            there = own[section][name].file
            raise RegistryError(f"{path}: {section} '{name}' is there already: {there}")
        known = entries(section).get(name)
        if known is not None and known.digest != digest and not again:
            raise RegistryError(f"{path}: {section} '{name}' is that of {known.file} already")
        options = {**entry.options, **_common(section, own)}
        fields = {**vars(entry), "name": name, "options": options}
        _known.setdefault(section, {})[name] = PluginEntry(**fields, digest=digest)
    _contents[digest] = (f"rm_plugin_{digest}_{stem}.py", content)
    return list(found)


def _section(path: Path, content: bytes) -> str:
    """What the file assigns to SECTION; empty where it does not."""
    try:
        body = ast.parse(content, str(path)).body
    except (SyntaxError, ValueError) as error:
        raise RegistryError(f"{path}: cannot be read: {error}") from None
    for node in body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            name, _, value = ast.unparse(node).partition(" = ")
            if name == "SECTION":
                return str(ast.literal_eval(value))
    return ""


def _common(section: str, own: Mapping[str, Mapping[str, Entry]]) -> dict[str, Option]:
    """The options that every data set has by itself: `limit`, `test_limit`, `held_out`."""
    if section != "dataset":
        return {}
    first, *others = own[section].values()
    return {
        name: option
        for name, option in first.options.items()
        if all(other.options.get(name) == option for other in others)
    }


def copies(values: Mapping[str, Any]) -> dict[str, bytes]:
    """Name -> content of the files that a trial of these values needs in its run directory."""
    if not _contents:
        return {}
    digests = {
        section["plugin"]
        for section in values.values()
        if isinstance(section, Mapping) and "plugin" in section
    }
    return dict(_contents[digest] for digest in digests if digest in _contents)


def load(entry: PluginEntry) -> Any:
    """Imported from its copy, as a module that reading processes can import too."""
    folder = str(entry.file.parent)
    if folder not in sys.path:
        sys.path.append(folder)
    writes = sys.dont_write_bytecode
    sys.dont_write_bytecode = True  # no __pycache__ in a run directory
    try:
        module = importlib.import_module(entry.file.stem)
    finally:
        sys.dont_write_bytecode = writes
    return getattr(module, entry.symbol)
