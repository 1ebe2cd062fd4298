#!/usr/bin/env python
"""python launch/run.py SPEC.yaml [--backend local] [--profile smoke] [--dry-run] ...; see `--help`
and `launch/cli.py`.
"""

import signal
import sys
from pathlib import Path

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # Until there is a command that could be stopped, Ctrl-C just ends; `main` takes it back.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

sys.path[0] = str(
    Path(__file__).resolve().parents[1]
)  # the repository, from whatever folder this is typed

from launch import interpreter  # noqa: E402

interpreter.check()

from launch.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
