"""How likely a claim would be confirmed, were the paper's numbers exactly right: the power of the
paired one-sided t-tests of one table, after Holm's correction over all of them and their
opposites. Imported by who asks for it; planning does not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr

LEVEL = 0.05
MOST_SEEDS = 60
_DRAWS = 2000


@dataclass(frozen=True)
class Effect:
    """What a test of a claim looks for.

    size      the claimed difference over its standard error with one seed: the test's
              non-centrality is size * sqrt(seeds); positive in the claim's direction
    degrees   of freedom with n seeds are degrees * (n - 1)
    """

    size: float
    degrees: float = 1.0


def power(effects: Sequence[Effect], seeds: Sequence[int]) -> list[float]:
    """The share of simulated tables in which each claim of a table holds, with so many seeds.

    Student's t under the alternative: (normal + non-centrality) / sqrt(chi² / degrees), the claims
    of a table independent of each other. 2,000 tables, always the same: two digits of a power.
    """
    sizes = tuple(effect.size * n**0.5 for effect, n in zip(effects, seeds, strict=True))
    degrees = tuple(effect.degrees * (n - 1) for effect, n in zip(effects, seeds, strict=True))
    return list(_power(sizes, degrees))


def seeds_needed(effects: Sequence[Effect], wanted: float) -> list[int | None]:
    """The fewest seeds with which each claim of a table has this power; None: more than
    MOST_SEEDS. All of the table's claims are tested with as many.
    """
    found: list[int | None] = [None] * len(effects)
    for n in range(2, MOST_SEEDS + 1):
        for i, value in enumerate(power(effects, [n] * len(effects))):
            if found[i] is None and value >= wanted:
                found[i] = n
        if all(found[i] is not None or effect.size <= 0 for i, effect in enumerate(effects)):
            break
    return found


def holm(p_values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Holm's step-down correction of each row: (N, m) -> (N, m).

    The i-th smallest of m p-values becomes max over j <= i of min(1, (m - j + 1) p_j) (Holm 1979,
    Scand. J. Stat. 6:65).
    """
    count = p_values.shape[1]
    order = np.argsort(p_values, axis=1, kind="stable")
    factors = np.arange(count, 0, -1)
    stepped = np.minimum(1.0, factors * np.take_along_axis(p_values, order, axis=1))
    corrected = np.empty_like(p_values)
    np.put_along_axis(corrected, order, np.maximum.accumulate(stepped, axis=1), axis=1)
    return corrected


@lru_cache(maxsize=4096)
def _power(sizes: tuple[float, ...], degrees: tuple[float, ...]) -> tuple[float, ...]:
    draws = np.random.default_rng(0)
    normal = draws.standard_normal((_DRAWS, len(sizes)))
    chi2 = draws.chisquare(np.maximum(degrees, 1e-9), (_DRAWS, len(sizes)))
    t = (normal + np.array(sizes)) / np.sqrt(chi2 / np.array(degrees))
    claimed, opposite = stdtr(degrees, -t), stdtr(degrees, t)
    corrected = holm(np.concatenate([claimed, opposite], axis=1))[:, : len(sizes)]
    return tuple(float(share) for share in (corrected < LEVEL).mean(axis=0))
