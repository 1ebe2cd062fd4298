"""How many seeds a spec's claims need: their power, were the paper's numbers exactly right."""

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from launch.commands._forecast import stated_gpu_hours
from launch.errors import UsageError
from launch.spec.load import Spec


class Comparison(NamedTuple):
    """One comparison that a spec claims; gain: by how much the paper's own numbers are on its
    side.
    """

    name: str
    gain: float


def comparisons(spec: Spec) -> Iterator[Comparison]:
    """Those of its claims of which the paper prints both numbers."""
    published = {cell.labels: cell.published for cell in spec.cells}
    for claim in spec.claims:
        for context in dict.fromkeys(labels[:-1] for labels in published):
            if claim.within is not None or (claim.of is not None and claim.of not in context):
                continue
            for smaller, larger in pairwise(claim.chain):
                low, high = published.get((*context, smaller)), published.get((*context, larger))
                if low is not None and high is not None:
                    name = " · ".join((*context, f"{smaller} < {larger}"))
                    yield Comparison(name, high - low - claim.by)


def tell_seeds(spec: Spec, wanted: float, spread: float) -> list[str]:
    """Lines on the seeds with which each claim has the power `wanted`.

    spread   standard deviation of a cell over its seeds, in the metric's unit
    """
    from launch.spec.power import MOST_SEEDS, Effect, power, seeds_needed

    claimed = list(comparisons(spec))
    if not claimed:
        raise UsageError(
            f"{spec.path}: the paper prints no two numbers that a claim of this spec compares"
        )
    effects = [Effect(one.gain / (2**0.5 * spread)) for one in claimed]
    needed = seeds_needed(effects, wanted)
    reached = sorted({n for n in needed if n is not None})
    lines = [
        f"{spec.name}: {len(claimed)} comparisons that the paper's numbers make; spread "
        f"{spread:g} a cell, Holm's correction over them and their opposites"
    ]
    for n in sorted({len(spec.seeds), 3, 5, *reached} - {1}):
        expected = sum(power(effects, [n] * len(effects)))
        done = sum(found is not None and found <= n for found in needed)
        lines.append(
            f"  {n:3} seeds: {expected:.1f} of {len(claimed)} expected to hold, {done} with a "
            f"power of {wanted:g} or more; {_cost(spec, n)}"
        )
    for one, found in zip(claimed, needed, strict=True):
        seeds = f"more than {MOST_SEEDS}" if found is None else str(found)
        lines.append(f"  {one.name} (by {one.gain:.2f}): {seeds} seeds")
    return lines


def _cost(spec: Spec, seeds: int) -> str:
    """Trials with so many seeds, and the GPU-hours that the spec's first line says, in
    proportion.
    """
    trials = sum(bool(cell.trials) for cell in spec.cells) * seeds
    if (stated := stated_gpu_hours(spec)) is None:
        return f"{trials} trials"
    hours = stated * trials / len({one.id for one in spec.trials})
    return f"{trials} trials, about {hours:,.0f} GPU-hours"
