"""One state a trial, out of what its run directory, its lease and a scheduler say."""

import time

import pytest

from launch.console import duration
from launch.runs.job import Job
from launch.runs.status import RunDirSnapshot, resolve_status

NOW = 1_000_000.0
HOLDER = {"host": "node3", "pid": 1, "machine": "elsewhere"}


def snapshot(state, *events, submitted=NOW - 1000, **more):
    """What a look found: events as (name, seconds ago), submitted to a scheduler before them."""
    found = tuple(
        {"event": name, "time": NOW - ago, "epoch": 3, "step": 1, "epoch_seconds": 5.0}
        for name, ago in events
    )
    return RunDirSnapshot(
        state, events=found, job={"backend": "slurm", "id": "7_1", "time": submitted}, **more
    )


@pytest.mark.parametrize(
    ("seen", "scheduler", "state"),
    [
        (snapshot("waiting"), "pending", "waiting"),
        (
            snapshot("waiting"),
            "running",
            "waiting",
        ),  # Python is starting, or others of the same job are first
        (snapshot("waiting"), "unknown", "waiting"),
        (snapshot("waiting"), "gone", "lost"),
        (
            snapshot("waiting", submitted=NOW - 1),
            "gone",
            "waiting",
        ),  # what it wrote may still be on its way
        (snapshot("waiting", cancelled=True), "gone", "interrupted"),
        (snapshot("running", ("epoch", 9), holder=HOLDER), "running", "running"),
        (
            snapshot("running", ("epoch", 9), holder=HOLDER),
            "gone",
            "running",
        ),  # a heartbeat says more than a scheduler
        (
            snapshot("interrupted", ("epoch", 900), holder=HOLDER, heartbeat_age=600.0),
            "unknown",
            "running",
        ),
        (
            snapshot("interrupted", ("epoch", 900), holder=HOLDER, heartbeat_age=600.0),
            "gone",
            "lost",
        ),
        (
            snapshot("interrupted", ("epoch", 900), holder=HOLDER, heartbeat_age=600.0),
            "running",
            "waiting",
        ),
        (
            snapshot("interrupted", ("interrupted", 100)),
            "pending",
            "waiting",
        ),  # preempted and requeued
        (
            snapshot("interrupted", ("interrupted", 100)),
            "gone",
            "interrupted",
        ),  # scancel: it left in order
        (
            snapshot("interrupted", ("interrupted", 2000)),
            "gone",
            "lost",
        ),  # that was before it was submitted again
        (snapshot("interrupted", ("checkpoint", 900)), "gone", "lost"),
        (snapshot("interrupted", ("interrupted", 100), cancelled=True), "pending", "interrupted"),
        (
            snapshot("interrupted", ("interrupted", 1), cancelled=True),
            "running",
            "interrupted",
        ),  # its worker has left, its job is about to
        (snapshot("interrupted", ("checkpoint", 1), cancelled=True), "running", "waiting"),
        (snapshot("failed", ("failed", 100)), "running", "failed"),  # others of the same job go on
        (snapshot("failed", ("failed", 100)), "gone", "failed"),
        (snapshot("failed", ("failed", 2000)), "pending", "waiting"),  # retried
        (snapshot("failed", ("failed", 2000)), "gone", "lost"),
    ],
)
def test_one_answer_from_scheduler_lease_and_journal(monkeypatch, seen, scheduler, state):
    monkeypatch.setattr(time, "time", lambda: NOW)
    assert resolve_status(seen, Job("7_1", scheduler, "node3"), 10).state == state


def test_the_time_left_follows_the_last_epochs(monkeypatch):
    monkeypatch.setattr(time, "time", lambda: NOW)
    now = resolve_status(snapshot("running", ("epoch", 2), holder=HOLDER), None, 10)
    assert (now.epoch, now.seconds_left) == (3, 7 * 5.0 - 2)
    assert resolve_status(snapshot("running", ("resumed", 2), holder=HOLDER), None, 10).epoch == 2
    assert [duration(s) for s in (3.4, 100, 3600, 30000, 200000)] == [
        "3 s",
        "2 min",
        "1 h 0 min",
        "8 h 20 min",
        "2 d 7 h",
    ]
