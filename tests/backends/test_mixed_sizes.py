"""Trials of one, two and four GPUs, some of which start from others, side by side on the local
backend: real launcher, real worker processes, trainings that sleep; nodes are taken away, the
launcher is stopped and started again.
"""

import shutil

from benchmarks.campaign import plan_of_everything, simulate
from launch.backends.local.pool import Slot, choose
from launch.paths import EXPERIMENTS
from tests.support.sizes import write

FROM = "\n  init: {from: wide, row: wide, seed: 0}"


def test_every_size_is_served_and_nothing_is_lost(tmp_path):
    """`simulate` raises where a step is missing or done twice, or two trials share a GPU."""
    write(tmp_path, "wide", 3, 4)
    write(tmp_path, "pairs", 4, 2, FROM)
    write(tmp_path, "singles", 9, 1)
    plan = plan_of_everything(tmp_path / "runs", tmp_path)
    lengths = {name: 0.1 + 0.02 * number for number, name in enumerate(plan.unique)}
    # Two: a worker that dies three times without a step in between fails its trial.
    visits = [(0.7, 0), (0.3, 0)]
    report = simulate(
        plan, tmp_path, lengths, gpus=8, tick=0.05, preemptions=visits, restarts=[1.2]
    )
    assert report.trials == report.calls["trials finished"] == 16
    assert not set(report.calls) & {"trials failed", "trials blocked"}


def test_gpus_come_free_for_what_is_larger():
    """Of four GPUs two are busy with small trials: the next two that come free are not given to
    other small ones while a trial of four waits, and a trial of two is left to wait as well.
    """
    singles = [Slot(1, {}, frozenset(gpu)) for gpu in "0123"]
    pairs = [Slot(2, {}, frozenset("01")), Slot(2, {}, frozenset("23"))]
    whole = Slot(4, {}, frozenset("0123"))
    slots = [whole, *pairs, *singles]
    assert choose(slots, singles[:2], {4: 0, 2: 1, 1: 5}) == pairs[1:]
    assert choose(slots, singles[:2], {4: 1, 2: 1, 1: 5}) == []
    assert choose(slots, singles[:1], {4: 0, 2: 2, 1: 5}) == pairs[1:], "GPU 1 is kept"
    assert choose(slots, pairs[:1], {4: 0, 2: 0, 1: 5}) == singles[2:]
    assert choose(slots, [], {4: 1, 2: 1, 1: 5}) == [whole]
    assert choose(slots, [], {4: 0, 2: 1, 1: 1}) == [pairs[0], singles[2]]


def test_on_a_cpu_sizes_follow_each_other():
    singles = [Slot(1, {}, frozenset({"cores"})) for _ in range(2)]
    pair = Slot(2, {}, frozenset({"cores"}))
    slots = [pair, *singles]
    assert choose(slots, [], {2: 1, 1: 5}) == [pair]
    assert choose(slots, [pair], {2: 0, 1: 5}) == []
    assert choose(slots, [], {2: 0, 1: 5}) == singles
    assert choose(slots, singles[:1], {2: 1, 1: 5}) == []


def test_a_campaign_trains_what_is_committed_as_well(tmp_path):
    shutil.copy(EXPERIMENTS / "cifar10_small.yaml", tmp_path)
    plan = plan_of_everything(tmp_path / "runs", tmp_path)
    assert plan.unique
    assert {use.state for use in plan.unique.values()} == {"waiting"}
