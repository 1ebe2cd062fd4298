"""Mirroring into the tracking store, and following, beside the training of trials."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from launch.commands import mirror_quietly
from launch.console import say
from launch.paths import tracking_is_on, tracking_uri, without_password
from launch.runs import folder, rundir
from launch.runs.rundir import RunDir
from launch.tracking.follow import Following
from launch.tracking.followers import Follower

if TYPE_CHECKING:
    from launch.progress import ProgressWatcher

MIRROR_SECONDS = 5.0
"""Between two looks at what is new."""
SILENT_SECONDS = 5.0
"""After all trials have ended, a store may take so long before a person is told."""


class Mirroring:
    """Mirrors in the background while trials run, and everything once more at the end.

    In between it looks at what was started here alone, and not again at what has ended and is
    mirrored: thousands of trials that wait or were finished before are not asked for every few
    seconds. A store that does not answer delays no trial, and the end of the command by two
    requests' time limits: that of the look that is under way, and that of the last one.
    """

    def __init__(
        self,
        watcher: "ProgressWatcher",
        others: Sequence[Path] = (),
        followers: Sequence[Follower] = (),
    ) -> None:
        self.watcher, self.others = watcher, others
        self.following = Following(followers, lambda: list(watcher.begun), others)
        self.settled: set[Path] = set()
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._loop, daemon=True)

    def _loop(self) -> None:
        while not self.done.wait(MIRROR_SECONDS):
            over = (
                self.watcher.over.copy()
            )  # before the mirror looks at them: their last word is on the disk
            quiet = over & self.settled
            begun = [run_dir for run_dir in list(self.watcher.begun) if run_dir not in quiet]
            if mirror_begun(begun) is not None:
                self.settled |= over

    def __enter__(self) -> None:
        self.thread.start()
        self.following.__enter__()

    def __exit__(self, *_: object) -> None:
        self.done.set()
        try:
            with _said_if_slow():
                self.thread.join()
                mirror_begun(list(dict.fromkeys([*self.others, *self.watcher.begun])))
            self.following.__exit__()
        except KeyboardInterrupt:
            say("stopped while mirroring; `python launch/run.py sync` mirrors the rest")


@contextmanager
def _said_if_slow() -> Iterator[None]:
    where = without_password(tracking_uri())
    text = f"waiting for the tracking store {where}; Ctrl-C leaves the rest to `sync`"
    timer = threading.Timer(SILENT_SECONDS, say, [text])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def mirror_begun(run_dirs: list[Path]) -> int | None:
    """Those that have begun: submitting many trials need not load MLflow to learn that there is
    nothing yet.
    """
    if not tracking_is_on():
        return None
    begun = folder.map_io(lambda run_dir: RunDir(run_dir).has(rundir.JOURNAL), run_dirs)
    return mirror_quietly(
        [run_dir for run_dir, there in zip(run_dirs, begun, strict=True) if there]
    )
