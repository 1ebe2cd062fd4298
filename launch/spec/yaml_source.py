"""A YAML document that remembers where each of its values stands, so that every error can name
file, line and column.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

Place = tuple[str | int, ...]


class Mark(NamedTuple):
    """Line and column, from 1."""

    line: int
    column: int


class Problem(NamedTuple):
    """One mistake and where it stands."""

    mark: Mark
    message: str


class SpecError(Exception):
    """All mistakes of one file; its text has a line `file:line:column: message` for each."""

    def __init__(self, path: Path, problems: list[Problem]) -> None:
        self.path = path
        self.problems = sorted(set(problems))
        super().__init__(
            "\n".join(f"{path}:{p.mark.line}:{p.mark.column}: {p.message}" for p in self.problems)
        )


@dataclass
class Document:
    """Plain data, and the place of every key and value by its path in the data."""

    path: Path
    data: Any
    keys: dict[Place, Mark] = field(default_factory=dict)
    values: dict[Place, Mark] = field(default_factory=dict)

    def mark(self, path: Place, *, key: bool = False) -> Mark:
        """The place of the value (or of its key) at `path`, or of the nearest enclosing one that
        has a place.
        """
        places = self.keys if key else self.values
        while path and path not in places:
            path, places = path[:-1], self.values
        return places.get(path, Mark(1, 1))


class _Loader(yaml.SafeLoader):
    """YAML 1.2's scalars: `5e-4` is a number; yes, no, on, off are words, and so is 12:30:00 (not
    base 60).
    """


_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in resolvers
        if tag
        not in ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:float", "tag:yaml.org,2002:int")
    ]
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
        r"^[-+]?(?:\d+\.\d*|\.\d+|\d+(?=[eE]))(?:[eE][-+]?\d+)?$|^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$"
    ),
    list("-+0123456789."),
)


def read(path: Path) -> Document:
    """Parse one YAML file; SpecError for what is no YAML, for duplicate keys and for keys that are
    not text.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise SpecError(path, [Problem(Mark(1, 1), f"cannot be read: {reason}")]) from None
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        where = error.problem_mark or error.context_mark
        mark = Mark(where.line + 1, where.column + 1) if where else Mark(1, 1)
        raise SpecError(path, [Problem(mark, f"not valid YAML: {error.problem}")]) from None
    except yaml.YAMLError as error:
        raise SpecError(path, [Problem(Mark(1, 1), f"not valid YAML: {error}")]) from None
    document = Document(path, None)
    problems: list[Problem] = []
    if root is not None:
        document.data = _build(root, (), loader, document, problems)
    if problems:
        raise SpecError(path, problems)
    return document


def _build(
    node: yaml.Node, at: Place, loader: _Loader, document: Document, problems: list[Problem]
) -> Any:
    mark = Mark(node.start_mark.line + 1, node.start_mark.column + 1)
    document.values[at] = mark
    if isinstance(node, yaml.SequenceNode):
        return [
            _build(item, (*at, i), loader, document, problems) for i, item in enumerate(node.value)
        ]
    if not isinstance(node, yaml.MappingNode):
        try:
            return loader.construct_object(node)
        except (yaml.YAMLError, ValueError):
            problems.append(
                Problem(mark, f"'{node.value}' is not a value of the type it looks like")
            )
            return None
    mapping: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key_mark = Mark(key_node.start_mark.line + 1, key_node.start_mark.column + 1)
        if not isinstance(key_node, yaml.ScalarNode):
            problems.append(Problem(key_mark, "a key must be plain text"))
            continue
        key = str(key_node.value)
        if key in mapping:
            problems.append(
                Problem(
                    key_mark,
                    f"duplicate key '{key}'; first given at line {document.keys[(*at, key)].line}",
                )
            )
            continue
        document.keys[(*at, key)] = key_mark
        mapping[key] = _build(value_node, (*at, key), loader, document, problems)
    return mapping
