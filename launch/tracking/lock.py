"""The store's one writer for a results folder: the lock, what it was doing when it died, and the
folder's name in the store.
"""

import fcntl
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from launch.paths import results_dir
from rm.files import write_atomically


class PendingCreates:
    """The trials for which a run was being created when a mirror was last heard of.

    A server may carry out a request whose sender has died, after the next mirror has looked and
    found nothing. The next mirror therefore looks again at its end. One line in the lock file; it
    holds more than one trial only after several deaths.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.unconfirmed = path.read_text(encoding="utf-8").split()[-8:]

    def begin(self, trial_id: str) -> None:
        self.path.write_text(
            " ".join(dict.fromkeys([*self.unconfirmed, trial_id])), encoding="utf-8"
        )

    def settled(self) -> None:
        self.unconfirmed = []
        self.path.write_text("", encoding="utf-8")


@contextmanager
def writer_lock() -> Iterator[PendingCreates]:
    """The store has one writer at a time for these results; a second one waits here. The lock dies
    with its holder.
    """
    results_dir().mkdir(parents=True, exist_ok=True)
    path = results_dir() / ".mlflow.lock"
    with path.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield PendingCreates(path)


def identity() -> str:
    """A name of this results folder that a copy of it elsewhere shares: it tells our former runs
    from other people's.
    """
    path = results_dir() / ".identity"
    if not path.exists():
        write_atomically(path, uuid.uuid4().hex)
    return path.read_text(encoding="utf-8")
