#!/usr/bin/env python
"""python launch/run.py SPEC.yaml [--backend local] [--profile smoke] [--dry-run] ...; see `--help`
and `launch/cli.py`.
"""

import sys
from pathlib import Path

sys.path[0] = str(
    Path(__file__).resolve().parents[1]
)  # the repository, from whatever folder this is typed

from launch import interpreter  # noqa: E402

interpreter.check()

from launch.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
