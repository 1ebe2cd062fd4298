"""Ours against the paper's: estimates, intervals and equivalence verdicts. Pure functions over
numbers.

Everything is in the unit of the values, and whether larger or smaller is better matters only
where the metric is asked. Student's t comes from `scipy.special` (`stdtr` is its distribution
function, `stdtrit` the inverse) and not from `scipy.stats`, whose import takes 0.9 s longer, half
of a report that has nothing new to read; the tests compare all of it with `scipy.stats`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit

from rm.metrics import Metric

ALPHA = 0.05
"""Level of every test and interval below."""

INSIDE, OUTSIDE = "inside, one seed", "outside, one seed"
"""The words on a cell of one value."""

ROUNDING = 1e-9
"""A relative spread below this is floating-point noise around equal numbers, not a spread."""


@dataclass(frozen=True)
class Estimate:
    """What n seeds say about one number.

    std divides by n - 1; low and high bound the 95 % t-interval mean ± t(0.975, n-1)·std/√n. All
    three are None where n = 1.
    """

    n: int
    mean: float
    std: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Verdict:
    """One word on a cell, the numbers behind it, and a reason where the word alone would mislead.

    tost_p is the p-value of the equivalence test, None where there is nothing to test.
    """

    word: str
    difference: float | None = None
    tost_p: float | None = None
    reason: str = ""


def estimate(values: Sequence[float]) -> Estimate | None:
    """Mean, standard deviation (n - 1) and 95 % t-interval; None for no values."""
    if not values:
        return None
    mean = float(np.mean(values))
    if len(values) == 1:
        return Estimate(1, mean, None, None, None)
    std = std_of(values)
    low, high = _interval(mean, std, len(values), 1 - ALPHA)
    return Estimate(len(values), mean, std, low, high)


def selection_optimism(
    metric: Metric, best: Mapping[int, float], last: Mapping[int, float]
) -> Estimate | None:
    """By how much the best epoch on the test set is better than the last one: the gain of best
    over last for the seeds that have both, each {seed: value}.

    Never negative for the metric that chose the epoch; the interval is that of a mean of n such
    numbers.
    """
    shared = sorted(best.keys() & last.keys())
    return estimate([metric.gain(best[seed], last[seed]) for seed in shared])


def verdict(
    values: Sequence[float],
    published: float | None,
    margin: float,
    *,
    comparable: bool = True,
    missing: Sequence[int] = (),
) -> Verdict:
    """Judge the values of one cell against the paper's number, which is taken as exact.

    reproduced      the 90 % t-interval lies within published ± margin, that is, two one-sided
                    tests at 5 % both reject a difference of the margin or more (TOST; Schuirmann
                    1987, J. Pharmacokinet. Biopharm. 15:657)
    consistent      not shown to be equivalent, but the 95 % t-interval overlaps that band; the
                    reason says where the interval is wider than the band
    differs         the 95 % t-interval lies outside the band
    inside, one seed; outside, one seed
                    where one value lies: it has no interval, and shows neither
    missing         no value
    not comparable  a reduced profile, or one with --set (comparable=False); or the paper has no
                    number

    Two or more equal values have no spread either (most often a seed without effect):
    `consistent` within the band, `differs` outside, and the reason says why.

    missing         the seeds of the cell that have no value; the reason names them
    """
    ours = estimate(values)
    if ours is None:
        return Verdict("missing", reason=shortfall(0, missing))
    if published is None:
        return Verdict("not comparable", reason="the paper has no number for this cell")
    difference = ours.mean - published
    if not comparable:
        return Verdict(
            "not comparable",
            difference,
            reason="a changed copy is not a run of the paper's experiment",
        )
    return _judged(ours, published, margin, shortfall(ours.n, missing))


def _judged(ours: Estimate, published: float, margin: float, short: str) -> Verdict:
    """The verdict where there is something to compare; `short` says which seeds are missing."""
    difference = ours.mean - published
    inside = abs(difference) <= margin * (1 + ROUNDING)
    if ours.n == 1:
        return Verdict(INSIDE if inside else OUTSIDE, difference, reason=short)
    if not ours.std:
        reason = join(
            short,
            f"all {ours.n} values are equal, so their spread is unknown: has the seed any effect?",
        )
        return Verdict("consistent" if inside else "differs", difference, reason=reason)
    p = tost(ours, published, margin)
    word = "consistent" if _overlaps(ours, published, margin) else "differs"
    if p < ALPHA:
        word = "reproduced"
    wide = ""
    if word == "consistent" and ours.low is not None and ours.high is not None:
        half = (ours.high - ours.low) / 2
        wide = f"its 95 % interval, ±{half:.2f}, is wider than the margin" if half > margin else ""
    return Verdict(word, difference, p, join(short, wide))


def shortfall(n: int, missing: Sequence[int]) -> str:
    """ "1 of 3 seeds, without 1 and 2"; nothing where no seed is missing."""
    named = " and ".join(
        part for part in (", ".join(map(str, missing[:-1])), *map(str, missing[-1:])) if part
    )
    return f"{n} of {n + len(missing)} seeds, without {named}" if missing else ""


def tost(ours: Estimate, published: float, margin: float) -> float:
    """The p-value of the two one-sided t-tests, the larger of the two.

    Their null hypotheses are mean <= published - margin and mean >= published + margin. p < 0.05
    exactly if the 90 % t-interval lies strictly within the band. Needs n >= 2 and a spread.
    """
    if not ours.std:
        raise ValueError(
            f"an equivalence test needs at least two different values, got n = {ours.n} without "
            "spread"
        )
    error = ours.std / math.sqrt(ours.n)
    difference = ours.mean - published
    above_lower = stdtr(ours.n - 1, -(difference + margin) / error)
    below_upper = stdtr(ours.n - 1, (difference - margin) / error)
    return float(max(above_lower, below_upper))


def std_of(values: Sequence[float], scale: float | None = None) -> float:
    """The standard deviation with n - 1, exactly 0 where only rounding tells the values apart.

    scale is the size of the numbers that the values were computed from; differences carry their
    operands' rounding.
    """
    scale = max(map(abs, values)) if scale is None else scale
    if max(values) - min(values) <= ROUNDING * scale:
        return 0.0
    return float(np.std(values, ddof=1))


def _interval(mean: float, std: float, n: int, level: float) -> tuple[float, float]:
    half = float(stdtrit(n - 1, (1 + level) / 2)) * std / math.sqrt(n)
    return mean - half, mean + half


def _overlaps(ours: Estimate, published: float, margin: float) -> bool:
    low = ours.mean if ours.low is None else ours.low
    high = ours.mean if ours.high is None else ours.high
    return low <= published + margin and high >= published - margin


def join(*parts: str) -> str:
    return "; ".join(part for part in parts if part)
