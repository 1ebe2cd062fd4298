"""What `rm` offers, read from its source without importing it: planning needs no torch and takes
no seconds.

The registry is the file system. A choice `method: cutmix` is the class in `rm/methods/cutmix.py`;
`backbone: resnet18` is the function of that name in some file of `rm/backbones/`; likewise
datasets, optimizers and schedules. Its options are the keyword-only parameters, with their
annotations and literal defaults. `Annotated[float, "0 < alpha <= 1"]` adds a condition on the
value, and a file's `REQUIRES = {"history or omega == 0": "why"}` conditions on several options
together. What a method's file says it `NEEDS` must be among what the backbone's file says it
`HAS`.
"""

import ast
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, create_model, model_validator

from launch.errors import CatalogError
from launch.paths import data_dir

SECTIONS = {
    "dataset": "datasets",
    "backbone": "backbones",
    "method": "methods",
    "optimizer": "optimizers",
    "schedule": "schedules",
    "probe": "probes",
}
"""Section of a trial -> where in `rm` its choices live."""

_NAMES = {
    "float": float,
    "int": int,
    "bool": bool,
    "str": str,
    "list": list,
    "Literal": Literal,
    "Annotated": Annotated,
}


@dataclass(frozen=True)
class Entry:
    """One thing that a spec can name, and the pydantic model of its options."""

    name: str
    file: Path
    options: type[BaseModel]
    features: frozenset[str] = frozenset()
    """Of a backbone: what methods find inside it. Of a method: what it must find."""
    files: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """A method's `REQUIRES_FILES`: option -> files in the folder it names (empty:
    $RM_DATA_DIR/<method>) -> whence.
    """


def source_root() -> Path:
    """The folder of the `rm` package, found without importing it."""
    found = importlib.util.find_spec("rm")
    if found is None or not found.submodule_search_locations:
        raise CatalogError(
            "the package rm is not importable; run from the repository or install it"
        )
    return Path(next(iter(found.submodule_search_locations)))


@cache
def numerics() -> int:
    """`rm.NUMERICS`, part of every trial's identity."""
    value = _constant(source_root() / "__init__.py", "NUMERICS", None)
    if value is None:
        raise CatalogError(f"{source_root() / '__init__.py'}: NUMERICS is not defined")
    return int(value)


@cache
def entries(section: str) -> dict[str, Entry]:
    """Every choice of a section, by name, in alphabetical order."""
    place = source_root() / SECTIONS[section]
    files = sorted(place.glob("[!_]*.py")) if place.is_dir() else [place.with_suffix(".py")]
    common = _common_options(place)
    found: dict[str, Entry] = {}
    for file in files:
        for name, arguments in _choices(section, file):
            if name in found:
                raise CatalogError(
                    f"{file}: {section} '{name}' is defined in {found[name].file} as well"
                )
            fields = {"name": (Literal[name], ...), **_fields(arguments, file), **common}
            options = _model(name, fields, _constant(file, "REQUIRES", {}))
            needed = _constant(file, "REQUIRES_FILES", {})
            found[name] = Entry(name, file, options, _features(section, file, name), needed)
    return dict(sorted(found.items()))


def misfit(method: str, backbone: str) -> str | None:
    """Why the method cannot act inside the backbone, and inside which it could; None where it
    can.
    """
    needs, backbones = entries("method")[method].features, entries("backbone")
    lacking = " and ".join(sorted(needs - backbones[backbone].features))
    if not lacking:
        return None
    valid = ", ".join(name for name, entry in backbones.items() if needs <= entry.features)
    return (
        f"method '{method}' needs a backbone with {lacking}; {backbone} has none; valid: "
        f"{valid or 'none'}"
    )


def missing_files(method: Mapping[str, Any]) -> str | None:
    """Which files of `REQUIRES_FILES` a resolved method lacks on this machine, and where to get
    them; None if none.
    """
    lacking = []
    for option, files in entries("method")[method["name"]].files.items():
        folder = Path(method[option]) if method[option] else data_dir() / method["name"]
        lacking += [
            f"{folder / file}, from {whence}"
            for file, whence in files.items()
            if not (folder / file).exists()
        ]
    return f"method '{method['name']}' needs {'; and '.join(lacking)}" if lacking else None


@cache
def train_options() -> type[BaseModel]:
    """The model of a trial's `train` section: the fields of `rm.options.Train`."""
    file = source_root() / "options.py"
    for node in _parse(file).body:
        if isinstance(node, ast.ClassDef) and node.name == "Train":
            fields = {}
            for item in node.body:
                if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                    fields[item.target.id] = _field(
                        item.target.id, item.annotation, item.value, file
                    )
            return _model("train", fields)
    raise CatalogError(f"{file}: the class Train is not defined")


@cache
def _parse(file: Path) -> ast.Module:
    try:
        return ast.parse(file.read_text(encoding="utf-8"), str(file))
    except (OSError, SyntaxError) as error:
        raise CatalogError(f"{file}: cannot be read: {error}") from None


def _choices(section: str, file: Path) -> list[tuple[str, ast.arguments]]:
    """(name, parameters) of each choice that a file defines."""
    body = _parse(file).body
    if section != "method":
        return [
            (n.name, n.args)
            for n in body
            if isinstance(n, ast.FunctionDef) and not n.name.startswith("_")
        ]
    classes = [n for n in body if isinstance(n, ast.ClassDef) and not n.name.startswith("_")]
    if len(classes) != 1:
        raise CatalogError(
            f"{file}: a method's file defines one public class, found {[c.name for c in classes]}"
        )
    for node in classes[0].body:
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            return [(file.stem, node.args)]
    return [(file.stem, ast.arguments([], [], None, [], [], None, []))]


def _common_options(place: Path) -> dict[str, Any]:
    """Options that every choice of a package has: the keyword-only parameters of `load` in its
    `__init__.py`.
    """
    file = place / "__init__.py"
    if not file.exists():
        return {}
    loaders = [n for n in _parse(file).body if isinstance(n, ast.FunctionDef) and n.name == "load"]
    return _fields(loaders[0].args, file) if loaders else {}


def _fields(arguments: ast.arguments, file: Path) -> dict[str, Any]:
    pairs = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    return {a.arg: _field(a.arg, a.annotation, default, file) for a, default in pairs}


def _field(
    name: str, annotation: ast.expr | None, default: ast.expr | None, file: Path
) -> tuple[Any, Any]:
    """One option as pydantic wants it: (type with its condition, default or ... where
    required).
    """
    if annotation is None:
        raise CatalogError(f"{file}: option '{name}' has no annotation")
    try:
        kind = eval(
            compile(ast.Expression(annotation), str(file), "eval"), {"__builtins__": {}}, _NAMES
        )  # our own source
    except NameError as error:
        raise CatalogError(
            f"{file}:{annotation.lineno}: option '{name}': {error}; valid: {', '.join(_NAMES)}"
        ) from None
    if get_origin(kind) is Annotated:
        base, condition = get_args(kind)
        kind = Annotated[base, AfterValidator(_condition(name, condition))]
    return kind, (... if default is None else ast.literal_eval(default))


def _condition(name: str, expression: str) -> Callable[[Any], Any]:
    """A validator for a condition such as "0 < alpha <= 1"; None, the option left out, always
    passes.
    """
    code = compile(expression, f"<condition on {name}>", "eval")

    def check(value: Any) -> Any:
        if value is not None and not eval(
            code, {"__builtins__": {"len": len, "all": all}}, {name: value}
        ):
            raise ValueError(f"must satisfy {expression}")
        return value

    return check


def _constant(file: Path, name: str, default: Any) -> Any:
    """The value of a literal that a file assigns to `name` at its top level."""
    for node in _parse(file).body:
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and node.targets[0].id == name
        ):
            return ast.literal_eval(node.value)
    return default


def _features(section: str, file: Path, name: str) -> frozenset[str]:
    """A method's `NEEDS`; a backbone's `HAS`, which is one for the file or one for each of its
    functions.
    """
    features = _constant(file, "NEEDS" if section == "method" else "HAS", ())
    return frozenset(features.get(name, ()) if isinstance(features, dict) else features)


def _model(
    name: str, fields: dict[str, Any], requirements: Mapping[str, str] = MappingProxyType({})
) -> type[BaseModel]:
    def check(model: BaseModel) -> BaseModel:
        for condition, why in requirements.items():
            if not eval(condition, {"__builtins__": {}}, model.model_dump()):  # our own source
                raise ValueError(f"must satisfy {condition}: {why}")
        return model

    config = ConfigDict(
        strict=True, extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False
    )
    validators: dict[str, Any] = (
        {"requirements": model_validator(mode="after")(check)} if requirements else {}
    )
    return create_model(name, __config__=config, __validators__=validators, **fields)
