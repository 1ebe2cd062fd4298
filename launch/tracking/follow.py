"""Lets followers follow the journals: each from where it was left, in a thread of its own, never
in anybody's way.

How far a run is followed stands in `results/followed/<follower>/<trial id>.json`, written after
each part that was sent. Trials are trained in other processes; what a follower waits for, or fails
at, holds up nothing but itself.
"""

import fcntl
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from launch.console import say
from launch.paths import results_dir, without_password
from launch.tracking import record
from launch.tracking.cursor import fingerprint
from launch.tracking.followers import Follower
from rm.files import write_atomically

EVERY_SECONDS = 5.0
MOST_SECONDS = 300.0
"""Between two tries, after it has failed again and again."""
PATIENCE_SECONDS = 60.0
"""How long a command that is done waits for a follower to come to its end."""
SILENT_SECONDS = 5.0
"""After so long a person is told what it waits for."""


def follow(follower: Follower, run_dirs: Iterable[Path], until: Callable[[], bool]) -> int:
    """Send what is new of these, one run after another, as the only one who does; returns of how
    many something was. `until` ends it between two runs.
    """
    count = 0
    folder = results_dir() / "followed" / follower.name
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder / ".lock"):
        for run_dir in run_dirs:
            if until():
                break
            count += _follow_one(follower, run_dir, folder / f"{run_dir.name}.json")
    return count


def _follow_one(follower: Follower, run_dir: Path, place: Path) -> bool:
    mark = _read(place)
    # Its digest: an address may be as good as a password, and results folders are shared.
    where = hashlib.sha256((follower.where or "").encode()).hexdigest()[:16]
    try:
        seen = [*fingerprint(run_dir), where]
        if mark.get("seen") == seen:
            return False
        found = record.read(run_dir)
    except (ValueError, KeyError, TypeError, OSError):
        return False  # a spoilt journal, which `status` names
    if found is None:
        return False
    if (mark.get("journal"), mark.get("where")) != (found.journal, where):
        mark = {}
    known: dict[str, Any] = {"journal": found.journal, "where": where}
    for part in follower.send(found, found.events[int(mark.get("sent", 0)) :], mark):
        known |= {"sent": len(found.events), **part}
        write_atomically(place, json.dumps(known), survives="sync of folder")
    write_atomically(place, json.dumps({**known, "seen": seen}), survives="sync of folder")
    return True


def _read(place: Path) -> dict[str, Any]:
    try:
        found = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class Following:
    """Followers at work beside a command, which says what they are to look at.

    look    the run directories that may have something new
    whole   those that are looked at once, at the end: what had ended before
    """

    def __init__(
        self,
        followers: Sequence[Follower],
        look: Callable[[], Iterable[Path]],
        whole: Sequence[Path] = (),
    ) -> None:
        self.followers, self.look, self.whole = followers, look, whole
        self.done, self.late = threading.Event(), threading.Event()
        self.threads = [
            threading.Thread(target=self._loop, args=(each,), daemon=True) for each in followers
        ]

    def __enter__(self) -> None:
        for thread in self.threads:
            thread.start()

    def __exit__(self, *_: object) -> None:
        self.done.set()
        began = time.monotonic()
        for follower, thread in zip(self.followers, self.threads, strict=True):
            thread.join(max(0.0, began + SILENT_SECONDS - time.monotonic()))
            if thread.is_alive():
                say(f"waiting for {follower.name}; Ctrl-C: {_later(follower)}")
            thread.join(max(0.0, began + PATIENCE_SECONDS - time.monotonic()))
            if thread.is_alive():
                say(f"{follower.name} is behind; {_later(follower)}")
        self.late.set()

    def _loop(self, follower: Follower) -> None:
        pause, told = EVERY_SECONDS, False
        while True:
            last = self.done.wait(pause)
            try:
                past = self.whole if last and follower.tells_the_past else ()
                todo = list(dict.fromkeys([*past, *self.look()]))
                follow(follower, todo, self.late.is_set)
                pause = EVERY_SECONDS
            except Exception as error:  # whatever a library, a server or a disk brings
                pause = min(2 * pause, MOST_SECONDS)
                if not told or last:
                    told = True
                    say(cannot(follower, error))
            if last:
                follower.close()
                return


def cannot(follower: Follower, error: Exception) -> str:
    """A sentence on what failed, without any address's password."""
    lines = str(error).splitlines()
    why = without_password(f"{type(error).__name__}: {lines[0] if lines else 'no message'}")
    return f"{follower.name} cannot follow ({why}); training goes on: {_later(follower)}"


def _later(follower: Follower) -> str:
    return f"`python launch/run.py sync --follow {follower.name}` sends the rest"
