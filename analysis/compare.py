"""Ours against the paper's: estimates, equivalence verdicts and tests of claims. Pure functions over numbers.

Student's t comes from `scipy.special` (`stdtr` is its distribution function, `stdtrit` the inverse). Everything is in the
unit of the values, percentage points of error here, and smaller is better only where a claim says so.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import stdtr, stdtrit

ALPHA = 0.05
"""Level of every test and interval below."""

_ROUNDING = 1e-9
"""A relative spread below this is floating-point noise around equal numbers, not a spread."""


@dataclass(frozen=True)
class Estimate:
    """What n seeds say about one number.

    std divides by n - 1; low and high bound the 95 % t-interval mean ± t(0.975, n-1)·std/√n. All three are None where
    n = 1.
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


@dataclass(frozen=True)
class ClaimResult:
    """A test of "left is smaller than right".

    difference is the mean of left - right over the shared seeds; p and p_opposite are the paired one-sided p-values of
    the claim and of its opposite; welch_p tests the claim without pairing. Holm's corrections are equal to p and
    p_opposite until `holm` has seen the whole table.
    """

    word: str
    n: int
    difference: float | None = None
    p: float | None = None
    p_opposite: float | None = None
    welch_p: float | None = None
    holm_p: float | None = None
    holm_p_opposite: float | None = None
    reason: str = ""


def estimate(values: Sequence[float]) -> Estimate | None:
    """Mean, standard deviation (n - 1) and 95 % t-interval; None for no values."""
    if not values:
        return None
    mean = float(np.mean(values))
    if len(values) == 1:
        return Estimate(1, mean, None, None, None)
    std = _std(values)
    low, high = _interval(mean, std, len(values), 1 - ALPHA)
    return Estimate(len(values), mean, std, low, high)


def verdict(
    values: Sequence[float],
    published: float | None,
    margin: float,
    *,
    comparable: bool = True,
    missing: Sequence[int] = (),
) -> Verdict:
    """Judge the values of one cell against the paper's number, which is taken as exact.

    reproduced      the 90 % t-interval lies within published ± margin, that is, two one-sided tests at 5 % both reject
                    a difference of the margin or more (TOST; Schuirmann 1987, J. Pharmacokinet. Biopharm. 15:657)
    consistent      not shown to be equivalent, but the 95 % t-interval overlaps that band
    differs         the 95 % t-interval lies outside the band
    missing         no values; or one value outside the band, which can show neither agreement nor difference
    not comparable  a reduced profile (comparable=False), or the paper has no number

    One value has no spread: within the band it is `consistent`, never more. Two or more equal values have no spread
    either (most often a seed without effect): `consistent` within the band, `differs` outside, and the reason says why.

    missing         the seeds of the cell that have no value; the reason names them
    """
    found = estimate(values)
    if found is None:
        return Verdict("missing", reason=shortfall(0, missing))
    if published is None:
        return Verdict("not comparable", reason="the paper has no number for this cell")
    difference = found.mean - published
    if not comparable:
        return Verdict("not comparable", difference, reason="a reduced profile is not a run of the paper's experiment")
    short = shortfall(found.n, missing)
    inside = abs(difference) <= margin * (1 + _ROUNDING)
    if found.n == 1:
        reason = _join(short, "one value has no interval")
        return Verdict("consistent" if inside else "missing", difference, reason=reason)
    if not found.std:
        reason = _join(short, f"all {found.n} values are equal, so their spread is unknown: has the seed any effect?")
        return Verdict("consistent" if inside else "differs", difference, reason=reason)
    p = tost(found, published, margin)
    word = "consistent" if _overlaps(found, published, margin) else "differs"
    if p < ALPHA:
        word = "reproduced"
    return Verdict(word, difference, p, short)


def shortfall(n: int, missing: Sequence[int]) -> str:
    """ "1 of 3 seeds, without 1 and 2"; nothing where no seed is missing."""
    named = " and ".join(part for part in (", ".join(map(str, missing[:-1])), *map(str, missing[-1:])) if part)
    return f"{n} of {n + len(missing)} seeds, without {named}" if missing else ""


def tost(found: Estimate, published: float, margin: float) -> float:
    """The p-value of the two one-sided t-tests, the larger of the two.

    Their null hypotheses are mean <= published - margin and mean >= published + margin. p < 0.05 exactly if the 90 %
    t-interval lies strictly within the band. Needs n >= 2 and a spread.
    """
    if not found.std:
        raise ValueError(f"an equivalence test needs at least two different values, got n = {found.n} without spread")
    error = found.std / math.sqrt(found.n)
    difference = found.mean - published
    above_lower = stdtr(found.n - 1, -(difference + margin) / error)
    below_upper = stdtr(found.n - 1, (difference - margin) / error)
    return float(max(above_lower, below_upper))


def test_claim(left: Mapping[int, float], right: Mapping[int, float]) -> ClaimResult:
    """Test that left is smaller than right, each given as {seed: value}.

    Paired one-sided t-test over the shared seeds: t = mean(d)/(std(d)/√n), d = left - right, n - 1 degrees of freedom.
    Where all differences are equal there is no t; the sign test's p = 2^-n stands in (1 if they are all zero).

    holds      p < 0.05, and the sign is the claim's
    reversed   the opposite one-sided p < 0.05
    undecided  neither
    missing    fewer than two shared seeds
    """
    shared = sorted(left.keys() & right.keys())
    differences = [left[seed] - right[seed] for seed in shared]
    if len(shared) < 2:
        mean = float(np.mean(differences)) if differences else None
        count = f"{len(shared) or 'no'} seed{'s' if len(shared) != 1 else ''}"
        return ClaimResult("missing", len(shared), mean, reason=f"{count} in common, a paired test needs two")
    scale = max(abs(value) for side in (left, right) for value in side.values())
    mean, std = float(np.mean(differences)), _std(differences, scale)
    if std:
        t = mean / (std / math.sqrt(len(shared)))
        p, p_opposite = float(stdtr(len(shared) - 1, t)), float(stdtr(len(shared) - 1, -t))
        reason = ""
    else:
        p, p_opposite = _sign_test(mean, len(shared), scale)
        reason = "all differences are equal: p is the sign test's"
    welch_p = welch(list(left.values()), list(right.values()))
    result = ClaimResult("undecided", len(shared), mean, p, p_opposite, welch_p, p, p_opposite, reason)
    return replace(result, word=_claim_word(p, p_opposite))


def welch(left: Sequence[float], right: Sequence[float]) -> float | None:
    """One-sided p-value of Welch's t-test that left has the smaller mean.

    None without any spread, or with one value on a side.
    t = (m1 - m2)/√(v1 + v2) with v = std²/n; degrees of freedom (v1 + v2)²/(v1²/(n1-1) + v2²/(n2-1))  (Welch 1947,
    Biometrika 34:28, with Satterthwaite's degrees of freedom).
    """
    if len(left) < 2 or len(right) < 2:
        return None
    v1, v2 = _std(left) ** 2 / len(left), _std(right) ** 2 / len(right)
    if v1 + v2 == 0:
        return None
    degrees = (v1 + v2) ** 2 / (v1**2 / (len(left) - 1) + v2**2 / (len(right) - 1))
    return float(stdtr(degrees, (np.mean(left) - np.mean(right)) / math.sqrt(v1 + v2)))


def holm(results: Sequence[ClaimResult]) -> list[ClaimResult]:
    """The claims of one table with words that hold for all of them together, in the order given.

    Holm's step-down correction (1979, Scand. J. Stat. 6:65): the i-th smallest of m p-values becomes
    max over j <= i of min(1, (m - j + 1)·p_j). Claims and their opposites are one family each.
    """
    tested = [i for i, result in enumerate(results) if result.p is not None]
    corrected = list(results)
    for_claim = _holm([results[i].p or 0.0 for i in tested])
    for_opposite = _holm([results[i].p_opposite or 0.0 for i in tested])
    for i, p, p_opposite in zip(tested, for_claim, for_opposite, strict=True):
        word = _claim_word(p, p_opposite)
        reason = results[i].reason
        if word != results[i].word:
            reason = _join(reason, f"alone it would be `{results[i].word}`, not among {len(tested)} claims")
        if word == "reversed":
            reason = _join(reason, f"the opposite has p = {p_opposite:.2g} after Holm's correction")
        corrected[i] = replace(results[i], word=word, holm_p=p, holm_p_opposite=p_opposite, reason=reason)
    return corrected


def _holm(p_values: Sequence[float]) -> list[float]:
    order = np.argsort(p_values, kind="stable")
    corrected = [0.0] * len(p_values)
    running = 0.0
    for rank, i in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = running
    return corrected


def _std(values: Sequence[float], scale: float | None = None) -> float:
    """The standard deviation with n - 1, exactly 0 where only rounding tells the values apart.

    scale is the size of the numbers that the values were computed from; differences carry their operands' rounding.
    """
    scale = max(map(abs, values)) if scale is None else scale
    if max(values) - min(values) <= _ROUNDING * scale:
        return 0.0
    return float(np.std(values, ddof=1))


def _interval(mean: float, std: float, n: int, level: float) -> tuple[float, float]:
    half = float(stdtrit(n - 1, (1 + level) / 2)) * std / math.sqrt(n)
    return mean - half, mean + half


def _overlaps(found: Estimate, published: float, margin: float) -> bool:
    low = found.mean if found.low is None else found.low
    high = found.mean if found.high is None else found.high
    return low <= published + margin and high >= published - margin


def _sign_test(mean: float, n: int, scale: float) -> tuple[float, float]:
    if abs(mean) <= _ROUNDING * scale:
        return 1.0, 1.0
    return (0.5**n, 1.0) if mean < 0 else (1.0, 0.5**n)


def _claim_word(p: float, p_opposite: float) -> str:
    if p < ALPHA:
        return "holds"
    return "reversed" if p_opposite < ALPHA else "undecided"


def _join(*parts: str) -> str:
    return "; ".join(part for part in parts if part)
