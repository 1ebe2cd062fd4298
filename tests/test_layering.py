"""The arrows between the packages, read off the imports of every file (DESIGN: rooms import only
downward).
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OURS = {"rm", "launch", "analysis"}
RAY = ("backend", "cluster", "gpu_memory", "pool", "on_slurm")
STANDARD = __import__("sys").stdlib_module_names


def imports(path: Path) -> set[str]:
    """Dotted names of everything a file imports, inside functions and TYPE_CHECKING blocks too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def is_under(name: str, modules: set[str]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


@pytest.mark.parametrize("path", files("rm"), ids=lambda p: str(p.relative_to(ROOT)))
def test_rm_runs_on_a_bare_gpu_node(path):
    allowed = {"torch", "torchvision", "timm", "numpy", "rm", *STANDARD}
    assert {name for name in imports(path) if not is_under(name, allowed)} == set()


@pytest.mark.parametrize("path", files("launch"), ids=lambda p: str(p.relative_to(ROOT)))
def test_launch_leaves_the_libraries_to_their_owners(path):
    owners = {
        "rm": {"worker/worker.py"},
        "torch": {"worker/worker.py"},
        "mlflow": {"tracking/mirror.py", "tracking/client.py"},
        "ray": {*(f"backends/ray/{name}.py" for name in RAY), "search/tune.py"},
        "optuna": {"search/tune.py"},
        "submitit": {"backends/slurm/script.py"},
        "analysis": set(),
        "pandas": set(),
    }
    light = {"rm.registry", "rm.metrics", "rm.files"}  # standard library only
    wrong = {
        name
        for name in imports(path)
        if not is_under(name, light) and name != "rm"
        for library, where in owners.items()
        if is_under(name, {library}) and str(path.relative_to(ROOT / "launch")) not in where
    }
    assert wrong == set()


@pytest.mark.parametrize("path", files("analysis"), ids=lambda p: str(p.relative_to(ROOT)))
def test_analysis_needs_no_torch_and_only_specs_and_trials_of_launch(path):
    names = imports(path)
    heavy = {"torch", "torchvision", "timm", "rm"}
    light = {"rm.registry", "rm.metrics", "rm.files"}
    assert not {
        name
        for name in names
        if is_under(name, heavy) and not is_under(name, light) and name != "rm"
    }
    ours = {name for name in names if is_under(name, {"launch"}) and name != "launch"}
    allowed = {"launch.spec", "launch.interpreter"}
    assert {name for name in ours if not is_under(name, allowed)} == set()
    if path != ROOT / "analysis" / "records" / "store.py":
        assert not {name for name in names if is_under(name, {"mlflow"})}


def test_experiments_hold_no_code():
    assert {path.suffix for path in (ROOT / "experiments").iterdir()} <= {".yaml", ".md"}


def test_the_rooms_are_where_the_user_fixed_them():
    for room in ("experiments", "rm", "launch", "analysis", "results", "tests", "environment.yml"):
        assert (ROOT / room).exists(), room
