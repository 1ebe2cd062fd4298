"""What source files import and define, read with `ast`, nothing being imported."""

import ast
import functools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from tests.support.trials import ROOT


class Import(NamedTuple):
    """One imported module, or a name of one: `launch.spec.load` or `launch.spec.load.Spec`."""

    name: str
    line: int
    at_start: bool = True  # when the file is imported, and not only inside a function
    is_choice: bool = False  # one of those that a name put together can mean


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def shown(path: Path, line: int | None = None) -> str:
    """How a person finds it."""
    return f"{path.relative_to(ROOT)}" + ("" if line is None else f":{line}")


def module_of(path: Path) -> str:
    """Path -> its dotted name; a package's is that of its folder."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def path_of(module: str) -> Path | None:
    """Dotted name -> its file, None where it is no module of ours."""
    place = ROOT.joinpath(*module.split("."))
    candidates = (place.with_suffix(".py"), place / "__init__.py")
    return next((path for path in candidates if path.is_file()), None)


@functools.cache
def imports(path: Path) -> tuple[Import, ...]:
    """Everything a file imports: inside functions, under TYPE_CHECKING and by `import_module` too.

    Of a name that is put together (`import_module(f"launch.commands.{name}")`) all files that it
    can mean.
    """
    return tuple(_imports(tree(path), at_start=True))


def _imports(node: ast.AST, at_start: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, child.lineno, at_start) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "this house imports by whole names"
            for alias in child.names:
                name = f"{child.module}.{alias.name}"
                is_ours = path_of(name) is not None or path_of(str(child.module)) is not None
                yield Import(name if is_ours else str(child.module), child.lineno, at_start)
        elif isinstance(child, ast.Call) and "import_module" in ast.unparse(child.func):
            yield from _named(child.args[0], child.lineno, at_start)
        is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        is_typing = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        yield from _imports(child, at_start and not (is_function or is_typing))


def _named(word: ast.expr, line: int, at_start: bool) -> Iterator[Import]:
    if isinstance(word, ast.Constant):
        yield Import(str(word.value), line, at_start)
    elif isinstance(word, ast.JoinedStr) and isinstance(word.values[0], ast.Constant):
        folder, _, start = str(word.values[0].value).rpartition(".")
        for path in sorted(ROOT.joinpath(*folder.split(".")).glob(f"{start}*")):
            name = f"{folder}.{path.stem}"
            if not path.name.startswith("_") and path_of(name):
                yield Import(name, line, at_start, is_choice=True)


def modules(path: Path, imported: Iterable[Import] | None = None) -> dict[Path, int]:
    """The files of ours that a file imports (all, or by these imports) -> the line where it does.

    `from launch.spec import load` is launch/spec/load.py, not launch/spec/__init__.py.
    """
    found: dict[Path, int] = {}
    for each in imports(path) if imported is None else imported:
        file = path_of(each.name) or path_of(each.name.rpartition(".")[0])
        if file and file != path:
            found.setdefault(file, each.line)
    return found


def reached(paths: list[Path]) -> dict[Path, Path | None]:
    """All files of ours that are imported with these -> the file that imports each."""
    found: dict[Path, Path | None] = dict.fromkeys(paths)
    waiting = list(paths)
    while waiting:
        path = waiting.pop()
        packages = [parent / "__init__.py" for parent in path.parents if ROOT in parent.parents]
        at_start = [each for each in imports(path) if each.at_start]
        for file in [*modules(path, at_start), *filter(Path.exists, packages)]:
            if file not in found:
                found[file] = path
                waiting.append(file)
    return found


def circles(paths: list[Path]) -> list[list[Path]]:
    """Groups of files that import each other by name, directly or by way of others (Tarjan)."""
    order: dict[Path, int] = {}
    low: dict[Path, int] = {}
    stack: list[Path] = []
    groups: list[list[Path]] = []

    def visit(path: Path) -> None:
        order[path] = low[path] = len(order)
        stack.append(path)
        for other in modules(path, [each for each in imports(path) if not each.is_choice]):
            if other not in order:
                visit(other)
            if other in stack:
                low[path] = min(low[path], low[other])
        if low[path] == order[path]:
            group = stack[stack.index(path) :]
            del stack[stack.index(path) :]
            if len(group) > 1:
                groups.append(sorted(group))

    for path in paths:
        if path not in order:
            visit(path)
    return groups
