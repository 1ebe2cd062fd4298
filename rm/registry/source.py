"""Reads what `rm` offers from its source, with `ast`, for `rm.registry`; imports none of it."""

import ast
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from rm.metrics import Metric
from rm.registry.option import Option as Option

_ANNOTATIONS = {
    "float": float,
    "int": int,
    "bool": bool,
    "str": str,
    "list": list,
    "Literal": Literal,
    "Annotated": Annotated,
}


ROOT = Path(__file__).resolve().parents[2]


class RegistryError(ValueError):
    """A file of `rm` that cannot be offered, or a name that is not there; the message says which,
    and what would be valid.
    """


@dataclass(frozen=True)
class Entry:
    """One thing that a trial can name.

    name       empty for a section that is no choice, such as train
    symbol     the class or function in its file
    features   of a backbone: what methods find inside it; of a method: what it must find
    files      of a method: option -> files in the folder it names -> where to get them
    metrics    of a task or a head: names of what it reports, the primary one first
    uses       of a task or a probe: the sections of a trial that it reads
    metric     of a probe: what it measures
    task       of a head or a data set: the one task that it is for
    tasks      of a method: the only ones that it is for; empty: any that reads a method
    together   of a task or a method: conditions on the options of several sections
    weightless of a backbone: options that change no weight, so that others can be loaded
    looks_for  of a data set: what it finds in $RM_DATA_DIR
    keeps_pictures   of a probe: whether it saves pictures beside its numbers
    """

    section: str
    name: str
    file: Path
    symbol: str
    options: Mapping[str, Option]
    constraints: Mapping[str, str] = field(default_factory=dict)
    features: frozenset[str] = frozenset()
    files: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    metrics: tuple[str, ...] = ()
    uses: tuple[str, ...] = ()
    metric: Metric | None = None
    task: str = ""
    tasks: tuple[str, ...] = ()
    together: Mapping[str, str] = field(default_factory=dict)
    weightless: tuple[str, ...] = ()
    looks_for: tuple[str, ...] = ()
    keeps_pictures: bool = False

    @property
    def title(self) -> str:
        """How messages call it: `method 'cutmix'`, or `train`."""
        return f"{self.section} '{self.name}'" if self.name else self.section


def read_choices(place: Path, section: str, *, classes: bool) -> dict[str, Entry]:
    """Every choice that a folder (or the file of that name) defines, in alphabetical order.

    classes   whether a file defines one class, named as the file is, or functions, one a choice
    """
    files = sorted(place.glob("[!_]*.py")) if place.is_dir() else [place.with_suffix(".py")]
    common = _common_options(place / "__init__.py")
    found: dict[str, Entry] = {}
    for file in files if place.is_dir() or files[0].exists() else []:
        for name, node in [_only_class(file)] if classes else _functions(file):
            if name in found:
                raise RegistryError(
                    f"{file}: {section} '{name}' is defined in {found[name].file} as well"
                )
            found[name] = _entry(section, name, file, node, common)
    return dict(sorted(found.items()))


@cache
def read_shape(file: Path, section: str, symbol: str) -> Entry:
    """A section that is no choice: the fields of a class are its options."""
    for node in _parse(file).body:
        if isinstance(node, ast.ClassDef) and node.name == symbol:
            fields = [item for item in node.body if isinstance(item, ast.AnnAssign)]
            options = {
                item.target.id: _option(item.target.id, item.annotation, item.value, file)
                for item in fields
                if isinstance(item.target, ast.Name)
            }
            return Entry(section, "", file, symbol, options)
    raise RegistryError(f"{file}: the class {symbol} is not defined")


def fields_of(shape: type) -> dict[str, Option]:
    """The fields of a dataclass as options, so that what is no trial can be checked alike."""
    hints = get_type_hints(shape, include_extras=True)
    found = {}
    for one in fields(shape):
        kind, condition = _split(hints[one.name])
        required = one.default is MISSING and one.default_factory is MISSING
        found[one.name] = Option(one.name, kind, condition, required)
    return found


def _split(annotation: Any) -> tuple[Any, str | None]:
    """Annotated[float, "lr > 0"] -> float and its condition."""
    if get_origin(annotation) is Annotated:
        kind, condition = get_args(annotation)
        return kind, condition
    return annotation, None


def _entry(
    section: str,
    name: str,
    file: Path,
    node: ast.ClassDef | ast.FunctionDef,
    common: Mapping[str, Option],
) -> Entry:
    body = node.body if isinstance(node, ast.ClassDef) else []
    places = (_parse(file).body, body)  # a task's literals may stand in its class

    def literal(constant: str, default: Any) -> Any:
        return _literal(places, constant, default)

    features = literal("REQUIRES_FEATURES" if section == "method" else "FEATURES", ())
    if isinstance(features, dict):
        features = features.get(name, ())
    measured = literal("METRIC", {})
    metric = Metric(name, **{"label": name, "unit": "", "better": "lower", **measured})
    return Entry(
        section,
        name,
        file,
        node.name,
        {**_own_options(node, file), **common},
        literal("CONSTRAINTS", {}),
        frozenset(features),
        literal("REQUIRES_FILES", {}),
        tuple(literal("METRICS", ())),
        tuple(literal("USES", ())),
        metric if section == "probe" else None,
        literal("TASK", ""),
        tuple(literal("TASKS", ())),
        literal("TOGETHER", {}),
        tuple(literal("WEIGHTLESS", ())),
        tuple(literal("LOOKS_FOR", ())),
        bool(literal("KEEPS_PICTURES", False)),
    )


@cache
def _parse(file: Path) -> ast.Module:
    try:
        return ast.parse(file.read_text(encoding="utf-8"), str(file))
    except (OSError, SyntaxError) as error:
        raise RegistryError(f"{file}: cannot be read: {error}") from None


def _functions(file: Path) -> list[tuple[str, ast.FunctionDef]]:
    return [
        (node.name, node)
        for node in _parse(file).body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    ]


def _only_class(file: Path) -> tuple[str, ast.ClassDef]:
    """The public class of a file that defines one."""
    body = _parse(file).body
    classes = [n for n in body if isinstance(n, ast.ClassDef) and not n.name.startswith("_")]
    if len(classes) != 1:
        raise RegistryError(
            f"{file}: a file here defines one public class, found {[c.name for c in classes]}"
        )
    return file.stem, classes[0]


def _parameters(node: ast.ClassDef | ast.FunctionDef) -> ast.arguments:
    if isinstance(node, ast.FunctionDef):
        return node.args
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            return item.args
    return ast.arguments([], [], None, [], [], None, [])


def _own_options(node: ast.ClassDef | ast.FunctionDef, file: Path) -> dict[str, Option]:
    """Of a class whose `__init__` hands on what is left (`**options`), those of the classes that
    it extends too, after its own.
    """
    arguments = _parameters(node)
    options = _options(arguments, file)
    if isinstance(node, ast.ClassDef) and arguments.kwarg is not None:
        for base in node.bases:
            inherited = _own_options(*_class(ast.unparse(base), file))
            options |= {name: one for name, one in inherited.items() if name not in options}
    return options


def _class(name: str, file: Path) -> tuple[ast.ClassDef, Path]:
    """A class that a file defines, or imports from a module of `rm` by its whole name."""
    for node in _parse(file).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return node, file
        if isinstance(node, ast.ImportFrom) and name in [alias.name for alias in node.names]:
            return _class(name, ROOT.joinpath(*(node.module or "").split(".")).with_suffix(".py"))
    raise RegistryError(f"{file}: the class {name}, whose options it takes, is not there")


def _common_options(file: Path) -> dict[str, Option]:
    """Options that every choice of a package has: the keyword-only parameters of `load` in its
    `__init__.py`.
    """
    if not file.exists():
        return {}
    loaders = [node for name, node in _functions(file) if name == "load"]
    return _options(loaders[0].args, file) if loaders else {}


def _options(arguments: ast.arguments, file: Path) -> dict[str, Option]:
    pairs = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    return {a.arg: _option(a.arg, a.annotation, default, file) for a, default in pairs}


def _option(
    name: str, annotation: ast.expr | None, default: ast.expr | None, file: Path
) -> Option:
    if annotation is None:
        raise RegistryError(f"{file}: option '{name}' has no annotation")
    code = compile(ast.Expression(annotation), str(file), "eval")
    try:
        kind = eval(code, {"__builtins__": {}}, _ANNOTATIONS)  # our own source
    except NameError as error:
        raise RegistryError(
            f"{file}:{annotation.lineno}: option '{name}': {error}; valid: "
            f"{', '.join(_ANNOTATIONS)}"
        ) from None
    kind, condition = _split(kind)
    value = None if default is None else ast.literal_eval(default)
    return Option(name, kind, condition, default is None, value)


def _literal(places: Iterable[list[ast.stmt]], name: str, default: Any) -> Any:
    """The value of a literal that is assigned to `name`, in the first of these bodies that does
    so.
    """
    for node in (node for body in places for node in body):
        if isinstance(node, ast.Assign):
            target, value = node.targets[0], node.value
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            target, value = node.target, node.value
        else:
            continue
        if isinstance(target, ast.Name) and target.id == name:
            return ast.literal_eval(value)
    return default
