"""The Python that runs us, and the one that our child processes get.

One sentence where a command is typed with a Python that lacks the project's packages, instead of
an import's traceback; and for child processes the code of this checkout, whatever lies in the
current folder.
"""

import os
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

NEEDED = ("pydantic", "yaml", "rich", "jinja2", "pandas")
"""What planning and reporting import first; asking for them costs a millisecond."""
CHECKOUT = "RM_CHECKOUT"
"""The environment variable with the checkout that planned what a worker is to run."""
_ROOT = Path(__file__).resolve().parents[1]


def check() -> None:
    """Exit with 2 where a package is missing."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        packages = (
            f"the package {missing[0]}"
            if len(missing) == 1
            else f"the packages {', '.join(missing)}"
        )
        print(
            f"error: {sys.executable} lacks {packages}; `make .venv/ready` makes an environment "
            "that has everything, "
            "and .venv/bin/python is its Python",
            file=sys.stderr,
        )
        sys.exit(2)


def module_command(module: str, *words: str) -> list[str]:
    """How a child process runs a module: -P keeps the current folder, with its `queue.py` or its
    own `rm`, off the path.
    """
    return [sys.executable, "-P", "-m", module, *words]


def child_environment(changes: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a child process: this checkout before whatever else is on the path."""
    return {**os.environ, **(changes or {}), **checkout()}


def checkout() -> dict[str, str]:
    """The variables by which a process anywhere imports this checkout, and can tell that it did.

    An empty entry of PYTHONPATH is the current folder, and so is left out.
    """
    others = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    path = os.pathsep.join([str(_ROOT), *(entry for entry in others if entry)])
    return {"PYTHONPATH": path, "PYTHONSAFEPATH": "1", CHECKOUT: str(_ROOT)}


def foreign_code(*packages: str | None) -> str | None:
    """What is wrong with the code that a worker imported, given the files of its packages: it is
    not that of the checkout that planned the trial. None where it is.
    """
    planned = os.environ.get(CHECKOUT)
    for file in packages if planned else ():
        root = Path(file or "").resolve().parents[1]
        if not (root.exists() and Path(str(planned)).exists() and root.samefile(str(planned))):
            return f"this process imports the code in {root}; the trial was planned by {planned}"
    return None
