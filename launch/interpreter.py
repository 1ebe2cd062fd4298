"""One sentence where a command is typed with a Python that lacks the project's packages, instead
of an import's traceback.
"""

import sys
from importlib.util import find_spec

NEEDED = ("pydantic", "yaml", "rich", "jinja2", "pandas")
"""What planning and reporting import first; asking for them costs a millisecond."""


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
