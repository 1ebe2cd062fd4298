"""The house holds: which room imports what, on which floor of `launch` a file stands, and how much
fits into a folder, a file, a function and a line. Each test names all violations of its rule.
"""

import ast
import sys
from collections.abc import Iterable
from pathlib import Path

from tests.support.source import (
    circles,
    files,
    imports,
    module_of,
    modules,
    path_of,
    reached,
    shown,
    tree,
)
from tests.support.trials import ROOT

LIBRARIES = {"torch", "torchvision", "timm", "numpy"}
"""All that `rm` may import, beside Python's own."""
DENSE = {"mmengine", "mmcv", "mmdet", "mmseg", "pycocotools", "faster_coco_eval", "cv2"}
"""What rm/dense alone may import as well."""
LIGHT = ("rm.registry", "rm.metrics", "rm.files")
"""Of `rm`, what planning may import: these import Python's own library only."""

OWNERS = {
    "mlflow": {"launch/tracking", "analysis/records"},
    "tensorboard": {"launch/tracking/followers"},
    "wandb": {"launch/tracking/followers"},
    "ray": {"launch/backends/ray", "launch/search"},
    "optuna": {"launch/search"},
    "submitit": {"launch/backends/slurm"},
    "torch": {"launch/worker"},
    "psutil": {"launch/worker"},
    "pandas": {"analysis"},
    "matplotlib": {"analysis"},
    "scipy": {"analysis", "launch/spec"},
    "yaml": {"launch/spec"},
    "ruamel": {"launch/spec"},
    "pydantic": {"launch/spec", "launch/backends/slurm"},
}
"""Library -> the rooms of launch and analysis that alone import it."""

GROUND = ("errors", "console", "files", "paths", "gpus", "interpreter", "garbage")
FLOORS = (
    GROUND,
    ("spec",),
    ("runs",),
    ("plan", "worker"),
    ("tracking", "backends", "progress"),
    ("search",),
    ("commands",),
    ("cli",),
    ("run",),
)
"""The floors of `launch` from the ground up. A file imports from its own room and from lower
floors, never from a neighbour on its floor; on the ground floor it imports nothing of ours."""

FOR_ANALYSIS = ("launch.spec", "launch.interpreter", "launch.garbage", "launch.console")
"""All that `analysis` may import of `launch`."""

OF_A_NAMED_TUPLE = ("_replace", "_asdict", "_fields", "_make")
PUBLIC = {"torch.utils._python_dispatch"}  # whose TorchDispatchMode is documented there
"""Public, in spite of their names."""

REGISTRIES = {
    *(f"rm/{section}" for section in ("tasks", "methods", "backbones", "datasets", "probes")),
    "rm/dense/heads",
    "launch/commands",
    "launch/tracking/followers",
    "analysis/figures",
}
"""Folders whose files are what a person can name; they have as many as there are."""

MOST_FILES, MOST_LINES, MOST_LINES_OF_A_FUNCTION, MOST_COLUMNS = 12, 320, 50, 99
ROOMS = ("rm", "launch", "analysis")


def assert_none(violations: Iterable[str]) -> None:
    found = sorted(set(violations))
    assert not found, f"{len(found)} violations:\n" + "\n".join(found)


def is_under(name: str, modules: Iterable[str]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def library(name: str) -> str:
    return name.partition(".")[0]


def test_rm_runs_on_a_bare_gpu_node():
    allowed = {"rm", *LIBRARIES, *sys.stdlib_module_names}
    assert_none(
        f"{shown(path, each.line)} imports {each.name}"
        for path in files("rm")
        for each in imports(path)
        if library(each.name) not in allowed
        and not (library(each.name) in DENSE and ROOT / "rm" / "dense" in path.parents)
    )


def test_a_classification_pays_nothing_for_detection():
    """Importing OpenMMLab takes 16 s of processor time: only functions that need it do so."""
    assert_none(
        f"{shown(path, each.line)} imports {each.name}"
        for path in files("rm")
        for each in imports(path)
        if each.at_start
        and (
            library(each.name) in DENSE
            or (is_under(each.name, ("rm.dense",)) and ROOT / "rm" / "dense" not in path.parents)
        )
    )


def test_what_planning_reads_of_rm_imports_the_standard_library_alone():
    starts = [path for name in LIGHT if (path := path_of(name))]
    assert len(starts) == len(LIGHT)
    assert_none(
        f"{shown(path, each.line)} imports {each.name}"
        for path in reached(starts)
        for each in imports(path)
        if library(each.name) not in {"rm", *sys.stdlib_module_names}
    )


def test_launch_and_analysis_import_of_rm_only_what_is_light_and_the_worker_the_rest():
    assert_none(
        f"{shown(path, each.line)} imports {each.name}"
        for path in [*files("launch"), *files("analysis")]
        for each in imports(path)
        if is_under(each.name, ("rm",))
        and not is_under(each.name, LIGHT)
        and ROOT / "launch" / "worker" not in path.parents
    )


def test_each_library_is_imported_in_the_room_that_owns_it():
    assert_none(
        f"{shown(path, each.line)} imports {each.name}"
        for path in [*files("launch"), *files("analysis")]
        for each in imports(path)
        if not any(
            path.is_relative_to(ROOT / room)
            for room in OWNERS.get(library(each.name), ("launch", "analysis"))
        )
    )


def test_analysis_imports_of_launch_only_specs_and_launch_nothing_of_analysis():
    assert_none(
        f"{shown(path, each.line)} imports {each.name}"
        for path in [*files("analysis"), *files("launch"), *files("rm")]
        for each in imports(path)
        if (
            is_under(each.name, ("launch",))
            and not is_under(
                each.name,
                ("launch.spec", "launch.interpreter", "launch.garbage", "launch.console"),
            )
            if ROOT / "analysis" in path.parents
            else is_under(each.name, ("analysis",))
        )
    )


def floor_of(path: Path) -> int | None:
    """0 is the ground floor; None for a file that has none, and for the package itself."""
    room = module_of(path).split(".")[1:2]
    return next((number for number, rooms in enumerate(FLOORS) if room and room[0] in rooms), None)


def test_every_file_of_launch_stands_on_a_floor():
    loose = [path for path in files("launch") if floor_of(path) is None]
    assert_none(shown(path) for path in loose if module_of(path) != "launch")


def test_imports_within_launch_go_only_downward():
    def room(path: Path) -> list[str]:
        return module_of(path).split(".")[:2]

    assert_none(
        f"{shown(path, line)} imports {module_of(other)}"
        for path in files("launch")
        for other, line in modules(path).items()
        if floor_of(path) is not None
        and floor_of(other) is not None
        and (floor_of(path) == 0 or room(path) != room(other))
        and floor_of(other) >= floor_of(path)
    )


def test_no_two_files_import_each_other():
    everything = [path for room in ROOMS for path in files(room)]
    assert_none(" <-> ".join(map(shown, group)) for group in circles(everything))


def test_the_local_backend_runs_on_a_bare_gpu_node():
    allowed = {"rm", "launch", *LIBRARIES, *sys.stdlib_module_names}
    starts = [*files("launch/backends/local"), *files("launch/worker")]
    found = reached(starts)
    assert_none(
        f"{shown(path, each.line)} imports {each.name} (by way of {shown(found[path] or path)})"
        for path in found
        for each in imports(path)
        if each.at_start and library(each.name) not in allowed
    )


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in OF_A_NAMED_TUPLE


def private_names(path: Path) -> set[str]:
    """What a file defines or sets for itself."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Attribute | ast.Name):
            name = getattr(node, "attr", getattr(node, "id", ""))
            found |= {name} if isinstance(node.ctx, ast.Store) else set()
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
    return set(filter(private, found))


def private_names_of_others(path: Path, theirs: set[str]) -> Iterable[tuple[int, str]]:
    """`from launch.x import _y`, and `x._y` where x is another file's module or object.

    A file `_x.py` is its folder's own; among choices the `_` says only that it is none.
    """
    for each in imports(path):
        file = path_of(each.name)
        module = file or path_of(each.name.rpartition(".")[0])
        if module and module.name.startswith("_") and module.name != "__init__.py":
            if module.parent != path.parent and shown(module.parent) not in REGISTRIES:
                yield each.line, each.name
        elif not file and each.name not in PUBLIC and private(each.name.rpartition(".")[2]):
            yield each.line, each.name
    theirs = theirs - private_names(path)
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Attribute) and node.attr in theirs:
            yield node.lineno, ast.unparse(node)


def test_no_private_name_crosses_a_file():
    everything = [path for room in ROOMS for path in files(room)]
    theirs = set().union(*map(private_names, everything))
    assert_none(
        f"{shown(path, line)}: {name}"
        for path in everything
        for line, name in private_names_of_others(path, theirs)
    )


def test_no_folder_holds_more_than_a_dozen_loose_files():
    assert len(list((ROOT / "launch").glob("*.py"))) <= MOST_FILES
    folders = {path.parent for room in ROOMS for path in files(room)}
    counts = {shown(folder): len(list(folder.glob("[!_]*.py"))) for folder in folders}
    assert_none(
        f"{folder}: {count} files"
        for folder, count in counts.items()
        if count > MOST_FILES and folder not in REGISTRIES
    )


def test_no_file_and_no_function_is_too_long():
    def long_file(path: Path) -> Iterable[str]:
        count = len(path.read_text(encoding="utf-8").splitlines())
        if count > MOST_LINES:
            yield f"{shown(path)}: {count} lines"

    def long_functions(path: Path) -> Iterable[str]:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines > MOST_LINES_OF_A_FUNCTION:
                    yield f"{shown(path, node.lineno)}: {node.name} has {lines} lines"

    assert_none(
        line
        for room in (*ROOMS, "tests", "benchmarks", "examples")
        for path in files(room)
        for line in (*long_file(path), *(long_functions(path) if room in ROOMS else ()))
    )


def test_no_line_is_too_wide():
    assert_none(
        shown(path, number)
        for room in (*ROOMS, "tests", "benchmarks")
        for path in files(room)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if len(line) > MOST_COLUMNS
    )


def test_no_test_module_imports_another_one():
    support = ("tests.support",)
    assert_none(
        f"{shown(path, each.line)} imports {each.name}"
        for room in ("tests", "benchmarks")
        for path in files(room)
        for each in imports(path)
        if is_under(each.name, ("tests",)) and not is_under(each.name, support)
    )


def test_experiments_hold_no_code():
    found = [path for path in (ROOT / "experiments").rglob("*") if path.is_file()]
    assert_none(shown(path) for path in found if path.suffix not in (".yaml", ".md"))


def test_the_rooms_are_where_the_user_fixed_them():
    rooms = ("experiments", "rm", "launch", "analysis", "results", "tests", "environment.yml")
    assert_none(room for room in rooms if not (ROOT / room).exists())
