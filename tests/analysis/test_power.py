"""The power of claims: against scipy's noncentral t, simulation, and the paper's own Table 3."""

import math
import random
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from analysis import claims
from analysis.collect import collect
from launch.paths import EXPERIMENTS
from launch.spec.load import load_spec
from launch.spec.power import Effect, holm, power, seeds_needed
from tests.support.analysis.samples import fake_records, grid_spec


def normal(seed, n, mean, std):
    draw = random.Random(seed)
    return {i: draw.gauss(mean, std) for i in range(n)}


@pytest.mark.parametrize(("n", "size"), [(3, 2.0), (5, 1.5), (10, 0.8)])
def test_the_power_of_one_claim_is_the_noncentral_ts(n, size):
    """Two hypotheses, the claim and its opposite: the first step of Holm's is 2.5 %."""
    critical = stats.t.ppf(1 - 0.025, n - 1)
    expected = stats.nct.sf(critical, n - 1, size * math.sqrt(n))
    assert power([Effect(size)], [n])[0] == pytest.approx(expected, abs=0.035)


def test_without_an_effect_a_claim_holds_in_no_more_than_its_share_of_tables():
    assert sum(power([Effect(0.0)] * 10, [3] * 10)) <= 0.05


def test_holm_is_stepped_down_row_by_row():
    rows = np.array([[0.01, 0.04, 0.03], [0.5, 0.2, 0.9]])
    assert holm(rows).tolist() == [pytest.approx([0.03, 0.06, 0.06]), pytest.approx([1, 0.6, 1])]


def test_three_seeds_decide_little_of_table_3_and_five_most():
    """At a spread of 0.2 points, a paper that is exactly right: of its 15 comparisons."""
    spec = load_spec(EXPERIMENTS / "table3.yaml")
    numbers = {cell.labels: cell.published for cell in spec.cells}
    rows = list(dict.fromkeys(cell.labels[0] for cell in spec.cells))
    (chain,) = [claim.chain for claim in spec.claims]
    gains = [
        numbers[row, right] - numbers[row, left] for row in rows for left, right in pairwise(chain)
    ]
    effects = [Effect(gain / (0.2 * math.sqrt(2))) for gain in gains]
    assert sum(power(effects, [3] * 15)) == pytest.approx(2.2, abs=0.3)
    assert sum(power(effects, [5] * 15)) == pytest.approx(10.7, abs=0.4)
    needed = seeds_needed(effects, 0.8)
    assert max(needed) > 20, "DenseNet-161: CutMix is better than Mixup by 0.2"
    for i, n in enumerate(needed):
        assert power(effects, [n] * 15)[i] >= 0.8
        assert power(effects, [n - 1] * 15)[i] < 0.8


def test_what_no_seeds_would_show_is_said_so():
    assert seeds_needed([Effect(0.01), Effect(-1.0), Effect(3.0)], 0.8) == [None, None, 5]


def test_a_pooled_claim_is_the_mean_over_its_contexts_with_their_own_spreads():
    sides = [
        (normal(i, 4, 18.0 + i, 0.1 * (i + 1)), normal(50 + i, 4, 18.4 + i, 0.1)) for i in range(3)
    ]
    results = [claims.order_test(*pair) for pair in sides]
    pooled = claims.pooled_test(results)
    differences = [[a[s] - b[s] for s in a] for a, b in sides]
    v = [np.var(d, ddof=1) / 4 for d in differences]
    t = np.mean(differences) / (math.sqrt(sum(v)) / 3)
    degrees = sum(v) ** 2 / sum(one**2 / 3 for one in v)
    assert pooled.p == pytest.approx(stats.t.cdf(t, degrees))
    assert pooled.difference == pytest.approx(np.mean(differences))
    assert degrees > 3, "more than each has alone"
    mirrored = claims.pooled_test([claims.order_test(b, a, ">") for a, b in sides], ">")
    assert (mirrored.p, mirrored.difference) == (
        pytest.approx(pooled.p),
        pytest.approx(-pooled.difference),
    )


def test_a_context_without_seeds_is_left_out_of_the_pool_and_counted():
    pair = (normal(0, 3, 18.0, 0.1), normal(1, 3, 19.0, 0.1))
    tested = [claims.order_test(*pair), claims.order_test(*pair), claims.order_test({}, {})]
    assert claims.pooled_test(tested).reason == "over 2 of 3"
    assert claims.pooled_test(tested[1:]).word == "missing"


def test_a_report_has_each_claims_power_and_pools_over_backbones():
    spec = grid_spec()
    table = collect(spec, fake_records(spec))
    alone = [claim for claim in table.claims if not claim.pooled]
    pooled = [claim for claim in table.claims if claim.pooled]
    assert [claim.context for claim in pooled] == ["pooled over 2"] * 2
    for claim in pooled:
        parts = [one for one in alone if one.left == claim.left]
        assert claim.result.difference == pytest.approx(
            sum(one.result.difference for one in parts) / 2
        )
    assert all(0 <= claim.result.power <= 1 for claim in table.claims)
    weaker = collect(spec, fake_records(spec, std=0.8))
    assert sum(claim.result.power for claim in weaker.claims) < sum(
        claim.result.power for claim in table.claims
    )


def test_without_published_numbers_there_is_no_power():
    from tests.support.analysis.samples import rows_spec

    table = collect(rows_spec(), fake_records(rows_spec()))
    assert not table.has_power
