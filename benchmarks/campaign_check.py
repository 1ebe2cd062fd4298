"""Whether a simulated campaign lost anything."""

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from launch.runs.journal import Event
from launch.runs.rundir import RunDir


def check_whole(ticks: Mapping[Path, int]) -> None:
    """SystemExit where a tick is missing or was journalled twice, a trial did not finish once or
    began before what it starts from had finished, or two had the same GPU at a time.

    ticks   run directory -> how many its trial takes

    What is finished says result.json: a worker that is killed right after writing it leaves a
    journal without its last line, and nothing is lost.
    """
    journals = {run_dir: RunDir(run_dir).events()[0] for run_dir in ticks}
    for run_dir, events in journals.items():
        wrong = _wrong_in(run_dir, events, ticks[run_dir])
        if wrong:
            raise SystemExit(f"{run_dir}: {wrong}")
        for parent in RunDir(run_dir).parents:
            if events[0]["time"] < journals[parent][-1]["time"]:
                raise SystemExit(f"{run_dir}: began before {parent.name} had finished")
    for gpu, held in sorted(_held(journals.values()).items()):
        for (_, end), (start, _) in itertools.pairwise(sorted(held)):
            if start < end:
                raise SystemExit(f"GPU {gpu}: two trials at a time")


def _wrong_in(run_dir: Path, events: Sequence[Event], ticks: int) -> str | None:
    """What of a trial is lost or was done twice."""
    steps = [event["step"] for event in events if event["event"] == "checkpoint"]
    names = [event["event"] for event in events]
    if not RunDir(run_dir).is_finished():
        return f"not finished; its journal ends with {names[-1] if names else 'nothing'}"
    if names.count("started") != 1 or names.count("finished") > 1:
        return f"started {names.count('started')} times, ended {names.count('finished')} times"
    for tick, step in enumerate(steps, 1):
        if step != tick:
            return f"tick {step} where {tick} was to come: one is lost, or was done twice"
    return None if len(steps) == ticks else f"finished after {len(steps)} of {ticks} ticks"


def _held(journals: Iterable[Sequence[Event]]) -> dict[str, list[tuple[float, float]]]:
    """GPU -> from when until when a trial had it, as far as its journal says."""
    held: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for events in journals:
        starts = [n for n, e in enumerate(events) if e["event"] in ("started", "resumed")]
        for first, after in itertools.pairwise([*starts, len(events)]):
            span = events[first]["time"], events[after - 1]["time"]
            for gpu in events[first]["device"].split(","):
                held[gpu].append(span)
    return held
