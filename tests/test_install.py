"""`pip install .`: what the package needs, what is in it, and that it works in an empty folder."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile

import pytest

from tests.support.source import files, imports
from tests.support.specs import write_spec
from tests.support.trials import ROOT

LIBRARIES = {"torch", "torchvision", "timm", "numpy"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MODULES = {"pyyaml": "yaml", "nvidia-ml-py": "pynvml", "markdown-it-py": "markdown_it"}
"""What a package is imported as, where its name does not say so."""
NOT_IMPORTED = {"scikit-learn"}
"""Its digits are read from its folder."""

BROUGHT = {"pydantic_core", "markupsafe"}
"""What pydantic and jinja2 bring with them."""


def names(requirements: list[str]) -> set[str]:
    found = {re.split(r"[\[>=;]", one)[0] for one in requirements}
    return {MODULES.get(name, name) for name in found - NOT_IMPORTED}


def test_the_method_alone_needs_no_more_than_rm_imports():
    assert names(PROJECT["dependencies"]) == LIBRARIES


@pytest.mark.parametrize("room", ["launch", "analysis"])
def test_an_extra_has_what_its_room_imports(room):
    used = {each.name.partition(".")[0] for path in files(room) for each in imports(path)}
    ours = {"rm", "launch", "analysis"}
    packages = used - ours - LIBRARIES - BROUGHT - set(sys.stdlib_module_names)
    extras = PROJECT["optional-dependencies"]
    asked_for = names(extras["followers"]) if room == "launch" else set()
    assert packages - asked_for <= names(extras[room])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The wheel, unpacked as pip would."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in ("rm", "launch", "analysis"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = f"from setuptools import build_meta as b; b.build_wheel({str(folder)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder / "site")
    return folder / "site"


def test_it_works_in_an_empty_folder(site, tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "RM_RESULTS_DIR"}
    environment |= {"PYTHONPATH": str(site), "PYTHONSAFEPATH": "1"}
    path = write_spec(tmp_path)
    (script,) = re.findall(
        r"recursivemix = (\S+)", next(site.glob("*.dist-info/entry_points.txt")).read_text()
    )
    module, _, function = script.partition(":")
    code = (
        f"import sys; from {module} import {function}; import rm, launch.paths as paths;"
        "sys.argv = ['recursivemix', 'plan', sys.argv[1], 'train.epochs=3'];"
        f"status = {function}(); print(rm.__file__, paths.results_dir()); sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, path.name],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    *_, summary, places = done.stdout.splitlines()
    assert summary == "4 trials: 4 waiting; 12 epochs to train"
    assert places == f"{site / 'rm' / '__init__.py'} {tmp_path.resolve() / 'results'}"


def test_every_file_that_is_read_is_in_it(site):
    inside = {
        path.relative_to(ROOT).as_posix()
        for room in ("rm", "launch", "analysis")
        for path in (ROOT / room).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.name != "site.yaml"
    }
    assert {one for one in inside if not (site / one).exists()} == set()
