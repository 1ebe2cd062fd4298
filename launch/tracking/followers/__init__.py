"""What may follow the journals beside MLflow, one file each: off until somebody asks for it.

A file defines one subclass of `Follower` and is chosen by its name: `--follow tensorboard`. It
alone imports its library, inside functions.
"""

import importlib
import importlib.util
import shutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from launch.errors import UsageError
from launch.tracking.record import Record
from rm.registry import suggestion

NAMES = tuple(sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py")))

Event = dict[str, Any]
Mark = dict[str, Any]
"""How far a run is followed, remembered beside the number of its events: what a follower likes."""


class Follower(ABC):
    """Sends what is new in journals to one tool.

    where   what was written behind `=`; None: its default place
    """

    name: ClassVar[str]
    package: ClassVar[str | None] = None
    """What has to be installed for it; None: nothing."""
    place: ClassVar[str]
    """What `where` is, for messages and --help."""
    tells_the_past: ClassVar[bool] = True
    """Whether runs that ended before the command began are sent too."""

    def __init__(self, where: str | None) -> None:
        self.where = where

    def check(self) -> None:
        """UsageError where it cannot work; asked before anything is made."""
        if self.package and importlib.util.find_spec(self.package) is None:
            pip = f"{sys.executable} -m pip install"
            if importlib.util.find_spec("pip") is None and shutil.which("uv"):
                pip = f"uv pip install --python {sys.executable}"
            raise UsageError(
                f"--follow {self.name} needs the package {self.package}, which is not "
                f"installed: {pip} {self.package}"
            )

    @abstractmethod
    def send(self, found: Record, events: Sequence[Event], mark: Mark) -> Iterator[Mark]:
        """Send what is new, and yield how far it came, once or after each part.

        events   those of the journal that were not sent yet; `sent` in a mark counts them, and
                 is all of them where it is left out
        mark     what was yielded last for this run and this journal; {} for a new one
        """

    def close(self) -> None:
        """Nothing more will be sent by this process."""
        return


def load(asked: str) -> Follower:
    """`tensorboard`, `webhook=https://…` -> the follower, checked; UsageError for what is none."""
    name, _, where = asked.partition("=")
    if name not in NAMES:
        raise UsageError(
            f"--follow {name}: nothing of that name follows journals"
            f"{suggestion(name, NAMES)}; there are: {', '.join(NAMES)}"
        )
    module = importlib.import_module(f"{__name__}.{name}")
    (kind,) = (
        each
        for each in vars(module).values()
        if isinstance(each, type) and issubclass(each, Follower) and each is not Follower
    )
    follower: Follower = kind(where or None)
    follower.check()
    return follower
