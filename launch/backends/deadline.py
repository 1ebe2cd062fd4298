"""`--deadline MINUTES`: a moment at which everything must have stopped, whatever is left."""

import argparse
import time

MARGIN_SECONDS = 20.0
"""So long before it, trials are told to checkpoint: large ones on a slow disk, and the packing."""
START_SECONDS = 15.0
"""A trial that has less left is not started: it would do no more than import and read data."""


class Deadline:
    """Counted from when it is made; of a short one, margins are a part."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds
        self.margin = min(MARGIN_SECONDS, seconds / 4)
        self.start = min(START_SECONDS, seconds / 8)

    @classmethod
    def in_minutes(cls, text: str) -> "Deadline":
        """What `--deadline` takes."""
        try:
            minutes = float(text)
        except ValueError:
            minutes = -1.0
        if not 0 < minutes < float("inf"):
            raise argparse.ArgumentTypeError(f"must be a number above 0, found '{text}'")
        return cls(60 * minutes)

    def allows_start(self) -> bool:
        """Whether a trial that starts now can still make progress."""
        return time.monotonic() + self.start < self.end - self.margin

    def is_over(self) -> bool:
        """Whether nothing more may start."""
        return not self.allows_start()

    def stops(self) -> int:
        """As many Ctrl-C as it stands for by now: one to checkpoint, a second one to kill."""
        left = self.end - time.monotonic()
        return int(left <= self.margin) + int(left <= 0.3 * self.margin)
