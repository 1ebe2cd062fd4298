"""What the events of a journal say: the state they leave, the curve, how far it came, how long it
takes still; and where its worker has noted that it stands within the epoch.

Events are `started`, `epoch`, `point` (of a probe), `checkpoint`, `interrupted`, `resumed`,
`finished`, `failed`.
"""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

State = Literal["waiting", "running", "interrupted", "failed", "finished", "damaged"]
"""damaged: a file of the run directory cannot be read, or is not what a worker leaves."""
Event = dict[str, Any]

POSITION = "position.json"
"""Where a worker notes how far it is within the epoch (rm/rundir/position.py)."""
RECENT_EPOCHS = 5
"""The time left is reckoned from this many of the last epochs."""


_WHOLE = ("epoch", "step", "point", "epochs", "threads", "processes")
_NUMBERS = ("time", "epoch_seconds")


def fault(event: object) -> str | None:
    """Why a line of a journal is no event; None where it is one."""
    if not isinstance(event, dict) or not isinstance(event.get("event"), str):
        return "not an event"
    if "time" not in event:
        return "an event without its time"
    for names, kinds in ((_WHOLE, int), (_NUMBERS, (int, float))):
        for name in names:
            if name in event and not isinstance(event[name], kinds):
                return f"{name} is {event[name]!r}"
    return None


def state_left_by(last: Mapping[str, Any] | None) -> State:
    """The state of a run that nobody works on, by the journal's last event."""
    if last is None:
        return "waiting"
    return "failed" if last["event"] == "failed" else "interrupted"


def number_of(event: Mapping[str, Any]) -> int | None:
    """Which epoch, or which point of a probe, an event gives the numbers of; None for others."""
    # Probes of earlier records wrote their points as epochs.
    if event["event"] in ("epoch", "point"):
        return int(event.get("point", event.get("epoch", 0)))
    return None


def curve(events: Iterable[Event]) -> dict[int, Event]:
    """The epochs of a training, or the points of a probe, by number: of each its last account.

    What was journalled after the checkpoint that a run resumes from is void until it comes again;
    a run that starts anew, as every probe does, begins an empty curve.
    """
    found: dict[int, Event] = {}
    for event in events:
        number = number_of(event)
        if number is not None:
            found[number] = event
        elif event["event"] in ("started", "resumed"):
            left = int(event.get("epoch", 1))
            found = {known: account for known, account in found.items() if known < left}
    return dict(sorted(found.items()))


def reached(events: Sequence[Mapping[str, Any]]) -> int:
    """How many epochs, or points of a probe, the last event that tells of one leaves behind."""
    for event in reversed(events):
        number = number_of(event)
        if number is not None:
            return number
        if event["event"] in ("started", "resumed") or event.get("epoch"):
            return int(event.get("epoch", 1)) - 1  # in the midst of this one
    return 0


def position(events: Iterable[Mapping[str, Any]]) -> list[int]:
    """[epoch, step] from which a start of the run would resume: that of its last checkpoint."""
    saved = [[e["epoch"], e["step"]] for e in events if "step" in e and "epoch" in e]
    return max(saved, default=[1, 0])


def seconds_left(events: Sequence[Mapping[str, Any]], epochs: int) -> float | None:
    """From the last epochs' times, less what the present epoch has had already; None before the
    first epoch's end, and for a probe, whose points take no time of their own.
    """
    done = [event for event in events if event["event"] == "epoch" and "epoch_seconds" in event]
    done = done[-RECENT_EPOCHS:]
    if not done or not epochs:
        return None
    mean = sum(float(event["epoch_seconds"]) for event in done) / len(done)
    since = max(0.0, time.time() - float(done[-1]["time"]))
    return max(0.0, (epochs - int(done[-1]["epoch"])) * mean - min(since, mean))


class Position(NamedTuple):
    """After `step` of `steps` in an epoch, at some time (seconds since 1970).

    loss           of that step; None where it was not finite
    step_seconds   what a step has taken since the worker began, evaluations included
    """

    time: float
    epoch: int
    step: int
    steps: int
    loss: float | None
    step_seconds: float | None

    def seconds_left(self, epochs: int) -> float | None:
        """Until all epochs are over, at this pace; None before there is one."""
        if self.step_seconds is None:
            return None
        steps = (epochs - self.epoch) * self.steps + self.steps - self.step
        return max(0.0, steps * self.step_seconds - max(0.0, time.time() - self.time))


def position_of(run_dir: Path | str) -> Position | None:
    """What the worker noted last; None where it has not, or not yet."""
    try:
        return Position(**json.loads(Path(run_dir, POSITION).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None  # of no consequence: it is written again in seconds


def within(position: Position | None, events: Sequence[Mapping[str, Any]]) -> Position | None:
    """The position, if it is that of the epoch which the journal's last events speak of, and not
    left by a worker before.
    """
    if position is None:
        return None
    begun = [float(e["time"]) for e in events if e["event"] in ("started", "resumed")]
    fresh = position.time >= max(begun, default=0.0)
    return position if fresh and position.epoch == reached(events) + 1 else None


def last_test(events: Sequence[Mapping[str, Any]]) -> tuple[str, float] | None:
    """The task's primary metric as it was tested last, and its value."""
    for event in reversed(events):
        for key, value in event.items():
            name = key.removeprefix("test_")
            if name != key and name != "loss" and event["event"] == "epoch":
                return name, float(value)
    return None
