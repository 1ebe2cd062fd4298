"""A YAML document that remembers where each of its values stands and collects what is wrong with
them, so that every error names file, line and column and all come at once.

Read with PyYAML: its nodes carry positions of keys and values alike. ruamel.yaml keeps those in
its round-trip loader only, which costs several times as much and would be one more dependency.
libyaml, where PyYAML comes with it, takes a fifteenth of the time; what it refuses is read again
by PyYAML's own parser, whose messages are the same on every machine.
"""

import re
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

YamlPath = tuple[str | int, ...]
"""Keys and indices that lead to a value: ("trial", "method", "alpha")."""


class Position(NamedTuple):
    """Line and column, from 1; or the argument of the command that was typed instead."""

    line: int
    column: int
    argument: str = ""

    def of(self, path: Path) -> str:
        """How a message begins: `table3.yaml:14:9`, or `--set train.epochs=x`."""
        return _one_line(self.argument) if self.argument else f"{path}:{self.line}:{self.column}"


class Diagnostic(NamedTuple):
    """One mistake and where it stands."""

    position: Position
    message: str


class SpecError(Exception):
    """All mistakes of one file; its text has a line `file:line:column: message` for each."""

    def __init__(self, path: Path, diagnostics: list[Diagnostic]) -> None:
        self.path = path
        self.diagnostics = sorted(set(diagnostics))
        super().__init__(
            "\n".join(f"{d.position.of(path)}: {_one_line(d.message)}" for d in self.diagnostics)
        )


def _one_line(text: str) -> str:
    """What is quoted from a file may hold ends of lines, and codes that a terminal obeys."""
    return re.sub(r"[\0-\x1f\x7f-\x9f\u2028\u2029]", lambda found: repr(found[0])[1:-1], text)


@dataclass
class YamlSource:
    """Plain data, the position of every key and value by its path, and the mistakes found."""

    path: Path
    data: Any
    keys: dict[YamlPath, Position] = field(default_factory=dict)
    values: dict[YamlPath, Position] = field(default_factory=dict)
    diagnostics: dict[Diagnostic, None] = field(default_factory=dict)
    """In the order found; a set, as many trials may meet the same mistake."""

    def position(self, at: YamlPath, *, key: bool = False) -> Position:
        """Of the value (or of its key) at this path, or of the nearest enclosing one that has a
        position.
        """
        known = self.keys if key else self.values
        while at and at not in known:
            at, known = at[:-1], self.values
        return known.get(at, Position(1, 1))

    def error(self, at: YamlPath | Position, message: str, *, key: bool = False) -> None:
        """Note a mistake at a value, or at its key."""
        position = at if isinstance(at, Position) else self.position(at, key=key)
        self.diagnostics[Diagnostic(position, message)] = None

    def raise_errors(self) -> None:
        """SpecError with every mistake noted, if any."""
        if self.diagnostics:
            raise SpecError(self.path, list(self.diagnostics))


class _Loader(yaml.SafeLoader):
    """YAML 1.2's scalars: `5e-4` is a number; yes, no, on, off are words, and so is 12:30:00 (not
    base 60).
    """


_RETYPED = {f"tag:yaml.org,2002:{kind}" for kind in ("bool", "float", "int")}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _RETYPED]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$", re.IGNORECASE), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int",
    re.compile(r"^[-+]?(?:0b[01_]+|0[0-7_]+|0x[0-9a-fA-F_]+|0|[1-9][0-9_]*)$"),
    list("-+0123456789"),
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(?:\d+\.\d*|\.\d+|\d+(?=[eE]))(?:[eE][-+]?\d+)?$"
        r"|^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$"
    ),
    list("-+0123456789."),
)


class _FastLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """The same by libyaml."""

    yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers


def _compose(text: str) -> tuple[yaml.SafeLoader, yaml.Node | None]:
    """A document's node, and a loader that makes plain data of its scalars."""
    loader = _Loader("")
    with suppress(yaml.YAMLError):
        if not _may_be_deep(text):
            return loader, _FastLoader(text).get_single_node()
    return loader, _Loader(text).get_single_node()


def _may_be_deep(text: str) -> bool:
    """Whether values could lie deeper than any spec's. libyaml would overflow the stack, where
    PyYAML's own parser raises RecursionError. Brackets within texts count too: it is a guess.
    """
    depth = 0
    for bracket in re.findall(r"[\[\]{}]", text):
        depth = max(0, depth + (1 if bracket in "[{" else -1))
        if depth > DEEPEST:
            return True
    return any(len(start) > 4 * DEEPEST for start in re.findall(r"^[ ?:-]*", text, re.MULTILINE))


def read(path: Path) -> YamlSource:
    """Parse one YAML file; SpecError for what is no YAML, for duplicate keys and for keys that are
    not text.
    """
    source = YamlSource(path, None)
    text = ""
    try:
        text = path.read_text(encoding="utf-8")
        loader, root = _compose(text)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        source.error((), f"cannot be read: {reason}")
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        position = Position(mark.line + 1, mark.column + 1) if mark else Position(1, 1)
        source.error(position, f"not valid YAML: {error.problem}")
    except yaml.reader.ReaderError as error:
        before = text[: error.position].split("\n")
        place = Position(len(before), len(before[-1]) + 1)
        source.error(place, f"not valid YAML: the character {chr(error.character)!r}")
    except RecursionError:
        source.error((), "cannot be read: nested too deeply")
    else:
        if root is not None:
            source.data = _Builder(loader, source).build(root, ())
    source.raise_errors()
    return source


def scalar(text: str) -> Any:
    """What a plain word of YAML means: `5e-4` a number, `true` a truth, else the text itself."""
    try:
        loader, node = _compose(text)
        if isinstance(node, yaml.ScalarNode):
            return loader.construct_object(node)
    except (yaml.YAMLError, ValueError, RecursionError):
        pass
    return text


def parse(text: str) -> tuple[Any, str | None]:
    """What a value of YAML means, such as `{name: step, milestones: [30, 60]}`; and what is wrong
    with it, if anything.
    """
    source = YamlSource(Path(), None)
    try:
        loader, node = _compose(text)
        found = None if node is None else _Builder(loader, source).build(node, ())
    except yaml.YAMLError as error:
        return None, f"not valid YAML: {getattr(error, 'problem', None) or 'a wrong character'}"
    except RecursionError:
        return None, "nested too deeply"
    return found, next((each.message for each in source.diagnostics), None)


def dump(values: Any) -> str:
    """Plain data as YAML: a section a line, keys in their order."""
    return yaml.dump(
        values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None,
        width=76,  # a word may stand out of it
    )  # fmt: skip


class _Dumper(yaml.SafeDumper):
    """Without anchors: what two sections share is written twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


MOST_VALUES = 1_000_000
"""In one file, aliases written out: a few lines of aliases of aliases can stand for billions."""
DEEPEST = 100
"""Levels of values within values; no spec has ten."""
_TWO_READINGS = re.compile(r"[-+]?0[0-9_]+")


class _Builder:
    """From nodes to plain data, with the place of each value."""

    def __init__(self, loader: yaml.SafeLoader, source: YamlSource) -> None:
        self.loader, self.source = loader, source
        self.open: list[int] = []
        """The nodes around the one that is built."""
        self.count = 0

    def build(self, node: yaml.Node, at: YamlPath) -> Any:
        self.count += 1
        self.source.values[at] = Position(node.start_mark.line + 1, node.start_mark.column + 1)
        if id(node) in self.open:
            self.source.error(at[:-1], "an anchor (&) that holds an alias (*) of itself")
            return None
        if self.count > MOST_VALUES:
            self.source.error((), f"more than {MOST_VALUES:,} values, its aliases written out")
            return None
        if len(self.open) == DEEPEST:
            self.source.error(at, "nested too deeply")
            return None
        self.open.append(id(node))
        if isinstance(node, yaml.SequenceNode):
            found: Any = [self.build(item, (*at, i)) for i, item in enumerate(node.value)]
        elif isinstance(node, yaml.MappingNode):
            found = self._mapping(node, at)
        else:
            found = self._scalar(node, at)
        self.open.pop()
        return found

    def _scalar(self, node: yaml.Node, at: YamlPath) -> Any:
        try:
            found = self.loader.construct_object(node)
        except (yaml.YAMLError, ValueError, OverflowError):
            self.source.error(at, f"'{node.value}' is not a value of the type it looks like")
            return None
        if type(found) is int and _TWO_READINGS.fullmatch(str(node.value)):
            message = f"'{node.value}' is {found} to some and {int(node.value)} to others"
            self.source.error(at, f"{message}; write it without the leading zero")
        return found

    def _mapping(self, node: yaml.MappingNode, at: YamlPath) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            position = Position(key_node.start_mark.line + 1, key_node.start_mark.column + 1)
            if not isinstance(key_node, yaml.ScalarNode):
                self.source.error(position, "a key must be plain text")
                continue
            key = str(key_node.value)
            if key in mapping:
                first = self.source.keys[(*at, key)].line
                self.source.error(position, f"duplicate key '{key}'; first given at line {first}")
                continue
            self.source.keys[(*at, key)] = position
            mapping[key] = self.build(value_node, (*at, key))
        return mapping
