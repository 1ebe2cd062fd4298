"""Tests of what a paper claims of its own numbers: "A < B", "A > B by 0.5", both paired by seed,
and "A, B, C within w"; Holm over a table.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy.special import stdtr

from analysis.compare import ALPHA, ROUNDING, Estimate, join, std_of, tost
from launch.spec.power import Effect, power, seeds_needed
from launch.spec.power import holm as holm_correction

POWER = 0.8
"""The power for which the seeds are counted."""


@dataclass(frozen=True)
class ClaimResult:
    """A test of "left is smaller (larger) than right", or of "no two differ by more than within".

    difference is the mean of left - right over the shared seeds, for a range the widest such mean
    without its sign; p and p_opposite are the paired one-sided p-values of the claim and of its
    opposite; welch_p tests the claim without pairing. Holm's corrections are equal to p and
    p_opposite until `holm` has seen the whole table. spread is the standard deviation of the
    differences over the seeds; power and seeds_needed are `with_power`'s.
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
    spread: float | None = None
    power: float | None = None
    seeds_needed: int | None = None


def order_test(
    left: Mapping[int, float],
    right: Mapping[int, float],
    sign: Literal["<", ">"] = "<",
    by: float = 0.0,
) -> ClaimResult:
    """Test that left is smaller (or, with `>`, larger) than right by at least `by`, each given as
    {seed: value}. Which of both is better does not matter here: a claim is arithmetic.

    Paired one-sided t-test over the shared seeds: t = (mean(d) + by)/(std(d)/√n), n - 1 degrees of
    freedom, where d = left - right for `<` and right - left for `>`. Where all differences are
    equal there is no t; the sign test's p = 2^-n stands in (1 if d is exactly -by).

    holds      p < 0.05
    reversed   the opposite one-sided p < 0.05
    undecided  neither
    missing    fewer than two shared seeds
    """
    way = 1.0 if sign == "<" else -1.0
    shared = sorted(left.keys() & right.keys())
    differences = [way * (left[seed] - right[seed]) for seed in shared]
    if len(shared) < 2:
        mean = way * float(np.mean(differences)) if differences else None
        count = f"{len(shared) or 'no'} seed{'s' if len(shared) != 1 else ''}"
        return ClaimResult(
            "missing", len(shared), mean, reason=f"{count} in common, a paired test needs two"
        )
    scale = max(abs(value) for side in (left, right) for value in side.values())
    mean, std = float(np.mean(differences)), std_of(differences, scale)
    if std:
        t = (mean + by) / (std / math.sqrt(len(shared)))
        p, p_opposite = float(stdtr(len(shared) - 1, t)), float(stdtr(len(shared) - 1, -t))
        reason = ""
    else:
        p, p_opposite = _sign_test(mean + by, len(shared), scale)
        reason = "all differences are equal: p is the sign test's"
    word = _claim_word(p, p_opposite)
    if by and word == "reversed" and mean < 0:
        reason = join(reason, f"in the claimed direction, but by less than {by:g}")
    smaller, larger = (list(side.values()) for side in (left, right)[:: int(way)])
    welch_p = welch(smaller, larger, by)
    mean *= way
    return ClaimResult(
        word, len(shared), mean, p, p_opposite, welch_p, p, p_opposite, reason, std or None
    )


def pooled_test(
    results: Sequence[ClaimResult], sign: Literal["<", ">"] = "<", by: float = 0.0
) -> ClaimResult:
    """Test of the mean difference over several contexts (backbones), for a claim that is made for
    all of them: `results` are `order_test`'s, one a context.

    The contexts are the ones claimed, no sample of others, so that only seeds vary: t = (mean of
    the contexts' mean differences + by) / (√Σv / k), v = spread²/n, with Satterthwaite's degrees
    of freedom (Σv)² / Σ(v²/(n-1)). Contexts that could not be tested are left out, and counted.
    """
    way = 1.0 if sign == "<" else -1.0
    tested = [one for one in results if one.spread and one.difference is not None]
    n = min((one.n for one in tested), default=0)
    reason = f"over {len(tested)} of {len(results)}" if len(tested) < len(results) else ""
    if len(tested) < 2:
        return ClaimResult("missing", n, reason="fewer than two of them can be tested")
    squares = [(one.spread or 0.0) ** 2 / one.n for one in tested]
    mean = float(np.mean([one.difference for one in tested]))
    error = math.sqrt(sum(squares)) / len(tested)
    degrees = sum(squares) ** 2 / sum(
        v**2 / (one.n - 1) for v, one in zip(squares, tested, strict=True)
    )
    t = (way * mean + by) / error
    p, p_opposite = float(stdtr(degrees, t)), float(stdtr(degrees, -t))
    word = _claim_word(p, p_opposite)
    return ClaimResult(
        word, n, mean, p, p_opposite, None, p, p_opposite, reason, error * math.sqrt(n)
    )


def with_power(
    results: Sequence[ClaimResult], published: Sequence[float | None], pooled: int = 1
) -> list[ClaimResult]:
    """The claims of one family with their power, were the paper's numbers exactly right.

    published   the claimed difference by the paper's numbers, beyond what the claim asks for and
                positive in its direction; None where the paper has none
    pooled      of how many contexts each is the mean: its degrees of freedom are so many times
                those of one
    """
    tested = [i for i, result in enumerate(results) if result.p is not None]
    known = [i for i in tested if published[i] is not None and results[i].spread]
    if not known:
        return list(results)
    # What is tested without being known still takes its place in Holm's correction.
    effects = [
        Effect((published[i] or 0.0) / (results[i].spread or 1.0) if i in known else 0.0, pooled)
        for i in tested
    ]
    powers = dict(zip(tested, power(effects, [results[i].n for i in tested]), strict=True))
    needed = dict(zip(tested, seeds_needed(effects, POWER), strict=True))
    return [
        replace(result, power=powers[i], seeds_needed=needed[i]) if i in known else result
        for i, result in enumerate(results)
    ]


def range_test(cells: Sequence[Mapping[int, float]], within: float) -> ClaimResult:
    """Test that no two of these cells, each {seed: value}, differ by more than `within`.

    Each pair has a paired equivalence test (TOST, as `compare.tost`) of its mean difference
    against ± within. The claim is about all pairs at once, so its p is the largest of theirs and
    needs no correction (intersection-union test; Berger 1982, Technometrics 24:295). The opposite,
    that some pair differs by more, is one-sided to both sides of every pair: its p is the smallest
    of theirs times twice the number of pairs (Bonferroni).
    """
    pairs = [(a, b) for i, a in enumerate(cells) for b in cells[i + 1 :]]
    tested = [_pair_within(a, b, within) for a, b in pairs]
    n = min(pair.n for pair in tested)
    if n < 2:
        return ClaimResult(
            "missing", n, reason="some two cells have fewer than two seeds in common"
        )
    widest = max(abs(pair.difference or 0.0) for pair in tested)
    p = max(pair.p or 0.0 for pair in tested)
    p_opposite = min(1.0, 2 * len(pairs) * min(pair.p_opposite or 0.0 for pair in tested))
    reason = "; ".join(dict.fromkeys(pair.reason for pair in tested if pair.reason))
    return ClaimResult(
        _claim_word(p, p_opposite), n, widest, p, p_opposite, None, p, p_opposite, reason
    )


def _pair_within(
    left: Mapping[int, float], right: Mapping[int, float], within: float
) -> ClaimResult:
    """The equivalence test of one pair; p_opposite is the smaller of the two one-sided ones."""
    shared = sorted(left.keys() & right.keys())
    if len(shared) < 2:
        return ClaimResult("missing", len(shared))
    differences = [left[seed] - right[seed] for seed in shared]
    scale = max(abs(value) for side in (left, right) for value in side.values())
    mean, std = float(np.mean(differences)), std_of(differences, scale)
    if not std:
        p, p_opposite = (
            (0.5 ** len(shared), 1.0) if abs(mean) <= within else (1.0, 0.5 ** len(shared))
        )
        return ClaimResult(
            "", len(shared), mean, p, p_opposite, reason="equal differences: p is the sign test's"
        )
    p = tost(Estimate(len(shared), mean, std, None, None), 0.0, within)
    return ClaimResult(
        "", len(shared), mean, p, float(stdtr(len(shared) - 1, _t(within, mean, std, len(shared))))
    )


def _t(within: float, mean: float, std: float, n: int) -> float:
    return (within - abs(mean)) / (std / math.sqrt(n))


def welch(left: Sequence[float], right: Sequence[float], by: float = 0.0) -> float | None:
    """One-sided p-value of Welch's t-test that left has the smaller mean, by at least `by`.

    None without any spread, or with one value on a side.
    t = (m1 - m2 + by)/√(v1 + v2) with v = std²/n; degrees of freedom (v1 + v2)²/(v1²/(n1-1) +
    v2²/(n2-1))  (Welch 1947, Biometrika 34:28, with Satterthwaite's degrees of freedom).
    """
    if len(left) < 2 or len(right) < 2:
        return None
    v1, v2 = std_of(left) ** 2 / len(left), std_of(right) ** 2 / len(right)
    if v1 + v2 == 0:
        return None
    degrees = (v1 + v2) ** 2 / (v1**2 / (len(left) - 1) + v2**2 / (len(right) - 1))
    t = (np.mean(left) - np.mean(right) + by) / math.sqrt(v1 + v2)
    return float(stdtr(degrees, t))


def holm(results: Sequence[ClaimResult]) -> list[ClaimResult]:
    """The claims of one table with words that hold for all of them together, in the order given.

    Holm's step-down correction over the claims and their opposites, which are one family: that
    none of them all is said wrongly has 95 %.
    """
    tested = [i for i, result in enumerate(results) if result.p is not None]
    corrected = list(results)
    both = [results[i].p or 0.0 for i in tested] + [results[i].p_opposite or 0.0 for i in tested]
    family = holm_correction(np.array([both]))[0].tolist()
    for i, p, p_opposite in zip(tested, family, family[len(tested) :], strict=False):
        word = _claim_word(p, p_opposite)
        reason = results[i].reason
        if word != results[i].word:
            reason = join(
                reason, f"alone it would be `{results[i].word}`, not among {len(tested)} claims"
            )
        if word == "reversed":
            reason = join(reason, f"the opposite has p = {p_opposite:.2g} after Holm's correction")
        corrected[i] = replace(
            results[i], word=word, holm_p=p, holm_p_opposite=p_opposite, reason=reason
        )
    return corrected


def _sign_test(mean: float, n: int, scale: float) -> tuple[float, float]:
    if abs(mean) <= ROUNDING * scale:
        return 1.0, 1.0
    return (0.5**n, 1.0) if mean < 0 else (1.0, 0.5**n)


def _claim_word(p: float, p_opposite: float) -> str:
    if p < ALPHA:
        return "holds"
    return "reversed" if p_opposite < ALPHA else "undecided"
