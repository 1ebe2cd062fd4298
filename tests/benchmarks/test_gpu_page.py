"""The benchmarks of benchmarks/GPU.md: what they import a bare GPU machine has, and what is on the
page is there to be run.
"""

import ast
import re
import sys

import pytest

from benchmarks.side_by_side import epochs_between, window
from tests.support.trials import ROOT

PAGE = (ROOT / "benchmarks" / "GPU.md").read_text(encoding="utf-8")
THERE = {"torch", "torchvision", "timm", "numpy", "rm", "benchmarks", *sys.stdlib_module_names}
COMMANDS = re.findall(r"python3? -m ([\w.]+)([^\n&;|]*)", PAGE)
ON_THE_GPU = sorted({module for module, _ in COMMANDS if module.startswith("benchmarks.")})


def imports(module: str) -> set[str]:
    """The modules that one of ours imports, by their first name, and those of `benchmarks` that it
    imports in turn.
    """
    path = ROOT / (module.replace(".", "/") + ".py")
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        for name in names:
            found.add(name.partition(".")[0])
            if name.startswith("benchmarks."):
                found |= imports(name)
    return found


def test_the_page_names_benchmarks():
    assert len(ON_THE_GPU) >= 4


@pytest.mark.parametrize("module", [*ON_THE_GPU, "benchmarks.checkpoint"])
def test_they_import_nothing_that_a_bare_machine_lacks(module):
    assert imports(module) <= THERE


@pytest.mark.parametrize(("module", "words"), COMMANDS)
def test_every_option_on_the_page_exists(module, words):
    if module == "pytest":
        files = [word for word in words.split() if word.startswith("tests/")]
        assert files
        assert all((ROOT / file).is_file() for file in files)
        return
    path = ROOT / module.replace(".", "/")
    path = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
    source = path.read_text(encoding="utf-8")
    for option in re.findall(r"--[a-z][a-z0-9-]+", words):
        assert f'"{option}"' in source, option
    for spec in re.findall(r"experiments/\w+\.yaml", words):
        assert (ROOT / spec).is_file()


def test_a_pace_is_reckoned_from_the_time_in_which_all_train():
    first, second = [1.0, 3.0, 5.0, 7.0, 9.0], [4.0, 5.0, 6.0, 7.0, 8.0]
    assert window([first, second]) == (4.0, 8.0)
    assert epochs_between(first, 4.0, 8.0) == pytest.approx(2.0)
    assert epochs_between(second, 4.0, 8.0) == pytest.approx(4.0)
