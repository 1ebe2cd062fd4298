"""The statistics: against scipy, worked examples, simulation, and the cases in which a formula has
nothing to say.
"""

import random

import numpy as np
import pytest
from scipy import stats

from analysis import claims, compare
from rm.metrics import METRICS


def normal(seed: int, n: int, mean: float, std: float = 0.15) -> list[float]:
    draw = random.Random(seed)
    return [draw.gauss(mean, std) for _ in range(n)]


def by_seed(values: list[float]) -> dict[int, float]:
    return dict(enumerate(values))


@pytest.mark.parametrize("n", [2, 3, 10])
def test_an_estimate_is_scipys(n):
    values = normal(n, n, 18.64)
    found = compare.estimate(values)
    low, high = stats.t.interval(0.95, n - 1, np.mean(values), stats.sem(values))
    assert (found.n, found.mean, found.std) == (
        n,
        pytest.approx(np.mean(values)),
        pytest.approx(np.std(values, ddof=1)),
    )
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


def test_an_estimate_worked_by_hand():
    found = compare.estimate(
        [2.40, 2.38, 2.28]
    )  # the authors' three released CIFAR-10 logs; t(0.975, 2) = 4.303
    assert found.mean == pytest.approx(2.353333, abs=1e-6)
    assert found.std == pytest.approx(0.064291, abs=1e-6)
    assert found.high - found.mean == pytest.approx(4.302653 * 0.064291 / 3**0.5, abs=1e-5)


def test_no_value_and_one_value_have_no_interval():
    assert compare.estimate([]) is None
    assert compare.estimate([3.0]) == compare.Estimate(1, 3.0, None, None, None)


@pytest.mark.parametrize("seed", range(5))
def test_equivalence_is_scipys_two_one_sided_tests_and_the_90_percent_interval(seed):
    values = normal(seed, 4, 18.70, 0.2)
    p = compare.tost(compare.estimate(values), 18.64, 0.3)
    above = stats.ttest_1samp(values, 18.34, alternative="greater").pvalue
    below = stats.ttest_1samp(values, 18.94, alternative="less").pvalue
    assert p == pytest.approx(max(above, below))
    low, high = stats.t.interval(0.90, 3, np.mean(values), stats.sem(values))
    assert (p < 0.05) == (low > 18.34 and high < 18.94)


def test_equivalence_needs_a_spread():
    with pytest.raises(ValueError, match="n = 1"):
        compare.tost(compare.estimate([18.6]), 18.64, 0.3)


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ([18.60, 18.64, 18.68], "reproduced"),
        ([18.30, 18.64, 18.98], "consistent"),
        ([19.30, 19.64, 19.50], "differs"),
        ([], "missing"),
        ([18.90], "inside, one seed"),
        ([18.94], "inside, one seed"),  # 18.94 - 18.64 is a little more than 0.3 in floating point
        ([19.40], "outside, one seed"),
        ([18.64, 18.64, 18.64], "consistent"),
        ([25.0, 25.0, 25.0], "differs"),
        ([18.6 + 1e-14, 18.6], "consistent"),  # rounding is no spread
    ],
)
def test_the_word_of_a_cell(values, word):
    assert compare.verdict(values, 18.64, 0.3).word == word


def test_a_verdict_gives_its_reason():
    one = compare.verdict([25.0], 18.64, 0.3, missing=[1, 2])
    assert one.reason == "1 of 3 seeds, without 1 and 2"
    wide = compare.verdict([18.30, 18.64, 18.98], 18.64, 0.3)
    assert wide.reason == "its 95 % interval, ±0.84, is wider than the margin"
    assert not compare.verdict([18.60, 18.64, 18.70], 18.45, 0.3).reason
    assert one.difference == pytest.approx(6.36)
    assert "equal" in compare.verdict([18.6, 18.6], 18.64, 0.3).reason
    assert (
        compare.verdict([], 18.64, 0.3, missing=[0, 1, 2]).reason
        == "0 of 3 seeds, without 0, 1 and 2"
    )


def test_a_reduced_profile_and_an_unpublished_cell_are_never_judged():
    assert compare.verdict([18.6, 18.7], 18.64, 0.3, comparable=False).word == "not comparable"
    assert compare.verdict([18.6, 18.7], None, 0.3).word == "not comparable"
    assert compare.verdict([], None, 0.3, comparable=False).word == "missing"


@pytest.mark.parametrize("margin", [0.0, 0.05, 0.3])
def test_without_a_true_difference_differs_is_said_in_at_most_5_percent(margin):
    words = [compare.verdict(normal(i, 3, 18.64), 18.64, margin).word for i in range(2000)]
    assert (
        words.count("differs") / 2000 <= 0.05 + 0.01
    )  # 0.01 is two standard errors of this simulation


def test_at_the_margin_reproduced_is_said_in_at_most_5_percent():
    words = [compare.verdict(normal(i, 5, 18.94, 0.1), 18.64, 0.3).word for i in range(2000)]
    assert 0.03 < words.count("reproduced") / 2000 <= 0.05 + 0.01


def test_a_true_and_large_difference_is_found():
    words = [compare.verdict(normal(i, 3, 20.0), 18.64, 0.3).word for i in range(200)]
    assert words.count("differs") / 200 > 0.9


@pytest.mark.parametrize("seed", range(4))
def test_a_claim_is_scipys_paired_and_welchs_test(seed):
    left, right = normal(seed, 4, 18.6), normal(seed + 100, 4, 18.8, 0.3)
    result = claims.order_test(by_seed(left), by_seed(right))
    assert result.p == pytest.approx(stats.ttest_rel(left, right, alternative="less").pvalue)
    assert result.p_opposite == pytest.approx(
        stats.ttest_rel(left, right, alternative="greater").pvalue
    )
    assert result.welch_p == pytest.approx(
        stats.ttest_ind(left, right, equal_var=False, alternative="less").pvalue
    )
    assert result.difference == pytest.approx(np.mean(left) - np.mean(right))


def test_students_sleep_data():
    """Student (1908): ten patients, extra hours of sleep under two drugs; t = -4.0621, two-sided p
    = 0.00283.
    """
    first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    result = claims.order_test(by_seed(first), by_seed(second))
    assert (result.word, result.n) == ("holds", 10)
    assert result.p == pytest.approx(0.002833 / 2, abs=1e-6)


def test_claims_pair_by_seed_and_use_only_shared_ones():
    result = claims.order_test(
        {0: 18.0, 1: 18.5, 2: 18.2, 7: 99.0}, {0: 19.0, 1: 19.6, 2: 19.1, 8: 0.0}
    )
    assert (result.word, result.n, result.difference) == ("holds", 3, pytest.approx(-1.0))


def test_the_opposite_of_a_claim_is_reversed():
    assert (
        claims.order_test({0: 19.0, 1: 19.6, 2: 19.1}, {0: 18.0, 1: 18.5, 2: 18.2}).word
        == "reversed"
    )


def test_claims_without_two_pairs_are_missing():
    assert claims.order_test({}, {}).word == "missing"
    alone = claims.order_test({0: 18.0}, {0: 19.0, 1: 19.1})
    assert (alone.word, alone.difference, alone.p) == ("missing", -1.0, None)


def test_equal_differences_fall_back_on_the_sign_test():
    """18.7 - 18.6 and 19.7 - 19.6 differ by rounding only; a t-test would take that for
    certainty.
    """
    three = claims.order_test({0: 18.6, 1: 19.6, 2: 20.6}, {0: 18.7, 1: 19.7, 2: 20.7})
    assert (three.word, three.p) == ("undecided", 0.125)
    five = claims.order_test(by_seed([18.0] * 5), by_seed([19.0] * 5))
    assert (five.word, five.p, five.welch_p) == ("holds", 1 / 32, None)
    assert claims.order_test(by_seed([18.0] * 5), by_seed([18.0] * 5)).word == "undecided"


def test_holm_by_hand():
    """p = 0.01, 0.04, 0.03 of three and their opposites: 6·0.01, 5·0.03, 4·0.04."""
    tested = [claims.ClaimResult("holds", 3, -1.0, p, 1 - p) for p in (0.01, 0.04, 0.03)]
    missing = claims.ClaimResult("missing", 1)
    corrected = claims.holm([tested[0], missing, *tested[1:]])
    assert [c.holm_p for c in corrected] == [
        pytest.approx(0.06),
        None,
        pytest.approx(0.16),
        pytest.approx(0.15),
    ]
    assert [c.word for c in corrected] == ["undecided", "missing", "undecided", "undecided"]
    assert "alone it would be `holds`" in corrected[2].reason


def test_a_reversed_claim_gives_the_p_value_of_its_opposite():
    (result,) = claims.holm([claims.ClaimResult("reversed", 3, 1.0, 0.998, 0.002, 0.9)])
    assert (result.word, result.holm_p_opposite) == ("reversed", 0.004)
    assert "the opposite has p = 0.004" in result.reason


def test_no_claim_is_decided_by_chance_in_more_than_5_percent_of_tables():
    """Ten true null hypotheses a table, to both sides: the rate of tables with any false word
    stays at the level.
    """
    false = 0
    for table in range(400):
        pairs = [
            (normal(table * 20 + i, 3, 18.0), normal(90_000 + table * 20 + i, 3, 18.0))
            for i in range(10)
        ]
        results = claims.holm([claims.order_test(by_seed(a), by_seed(b)) for a, b in pairs])
        false += any(result.word in ("holds", "reversed") for result in results)
    assert false / 400 <= 0.05 + 0.025


def test_selection_optimism_is_a_paired_mean():
    """The authors' three logs: 2.40, 2.38, 2.28 at their best epochs, 2.68, 2.51, 2.58 at the
    last.
    """
    best, last = {0: 2.40, 1: 2.38, 2: 2.28, 3: 9.0}, {0: 2.68, 1: 2.51, 2: 2.58, 4: 9.0}
    found = compare.selection_optimism(METRICS["top1_error"], best, last)
    mirrored = [{seed: 100 - value for seed, value in side.items()} for side in (best, last)]
    accuracy = compare.selection_optimism(METRICS["top1_accuracy"], *mirrored)
    assert (accuracy.n, accuracy.mean) == (3, pytest.approx(found.mean))
    low, high = stats.t.interval(0.95, 2, 0.71 / 3, stats.sem([0.28, 0.13, 0.30]))
    assert (found.n, found.mean) == (3, pytest.approx(0.71 / 3))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert compare.selection_optimism(METRICS["top1_error"], {0: 2.4}, {1: 2.5}) is None


@pytest.mark.parametrize("seed", range(4))
def test_a_range_is_the_worst_pairs_equivalence_test_by_scipy(seed):
    cells = [normal(seed * 10 + i, 5, 18.6, 0.1) for i in range(3)]
    result = claims.range_test([by_seed(values) for values in cells], 0.3)
    p, outside = [], []
    for a, b in [(0, 1), (0, 2), (1, 2)]:
        differences = np.subtract(cells[a], cells[b])
        below = stats.ttest_1samp(differences, 0.3, alternative="less").pvalue
        above = stats.ttest_1samp(differences, -0.3, alternative="greater").pvalue
        p.append(max(below, above))
        outside += [1 - below, 1 - above]
    assert (result.n, result.p) == (5, pytest.approx(max(p)))
    assert result.p_opposite == pytest.approx(min(1, 6 * min(outside)))
    assert result.difference == pytest.approx(
        max(abs(np.mean(np.subtract(cells[a], cells[b]))) for a, b in [(0, 1), (0, 2), (1, 2)])
    )


def test_a_range_holds_turns_out_wider_or_stays_undecided():
    close, far = {0: 18.60, 1: 18.62, 2: 18.64}, {0: 19.60, 1: 19.62, 2: 19.65}
    near = {0: 18.61, 1: 18.62, 2: 18.66}
    assert claims.range_test([close, near], 0.3).word == "holds"
    assert claims.range_test([close, near, far], 0.3).word == "reversed"
    assert claims.range_test([close, {0: 18.3, 1: 19.0, 2: 18.6}], 0.3).word == "undecided"
    assert claims.range_test([close, {0: 18.6}], 0.3).word == "missing"
    assert (
        claims.range_test([close, close], 0.3).word == "undecided"
    )  # equal differences: three seeds are too few for a sign test


def test_a_range_that_is_just_exceeded_is_said_to_hold_in_at_most_5_percent():
    words = [
        claims.range_test(
            [by_seed(normal(i, 4, 18.0)), by_seed(normal(50_000 + i, 4, 18.3))], 0.3
        ).word
        for i in range(2000)
    ]
    assert words.count("holds") / 2000 <= 0.05 + 0.01
    assert words.count("reversed") / 2000 <= 0.05 + 0.01
