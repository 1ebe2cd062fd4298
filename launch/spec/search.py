"""A search: its space, how samples are drawn from it, and which of them wins.

Samples train on the training set less `held_out` images and are judged on those; the test set is
never seen. Drawing is here, so that a random search's samples are known before anything runs.
`launch/spec/grammar/search.py` reads a search from a spec, `launch/search/run.py` carries it out.
"""

import copy
import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from random import Random
from typing import Annotated, Any, Literal

from launch.spec.trial import Trial, canonical
from rm import registry
from rm.metrics import Metric, from_recorded, recorded_as

DIGITS = 4
"""Significant digits of what is drawn, so that a winner can be written into a spec and is the same
trial there.
"""


@dataclass(frozen=True)
class Asha:
    """Successive halving without waiting: at `grace_epochs` times each power of the factor, the
    best 1/factor go on.
    """

    name: Literal["asha"] = "asha"
    grace_epochs: Annotated[int, "grace_epochs >= 1"] = 1
    reduction_factor: Annotated[float, "reduction_factor > 1"] = 3


@dataclass(frozen=True)
class Median:
    """Stops a sample whose best is worse than the median of the others' running means,
    `least_samples` of them at least.
    """

    name: Literal["median"] = "median"
    grace_epochs: Annotated[int, "grace_epochs >= 1"] = 1
    least_samples: Annotated[int, "least_samples >= 1"] = 3


@dataclass(frozen=True)
class NoScheduler:
    """Every sample runs to its end."""

    name: Literal["none"] = "none"


Scheduler = Asha | Median | NoScheduler


@dataclass(frozen=True)
class Dimension:
    """One key of the space. kind: uniform, loguniform, choice or int; bounds: low and high, or the
    choices.
    """

    key: str
    kind: str
    bounds: tuple[Any, ...]

    def draw(self, random: Random) -> Any:
        low, high = self.bounds[0], self.bounds[-1]
        if self.kind == "choice":
            return random.choice(self.bounds)
        if self.kind == "int":
            return random.randint(low, high)
        if self.kind == "loguniform":
            return self.rounded(math.exp(random.uniform(math.log(low), math.log(high))))
        return self.rounded(random.uniform(low, high))

    def rounded(self, value: Any) -> Any:
        """A drawn number to DIGITS significant ones, still within the bounds."""
        if self.kind not in ("uniform", "loguniform"):
            return value
        low, high = self.bounds
        return min(max(float(f"{value:.{DIGITS}g}"), float(low)), float(high))


@dataclass(frozen=True)
class Sample:
    """One point of the space and its trial, which validates on held-out training images; numbers
    count from 1.
    """

    number: int
    point: Mapping[str, Any]
    trial: Trial

    @property
    def label(self) -> str:
        """`sample 7: alpha 0.43, omega 0.12`, by which records know it."""
        return f"sample {self.number}: {describe(self.point)}"


State = Literal["finished", "stopped", "failed", "undecided"]


@dataclass(frozen=True)
class SampleResult:
    """What is known of a sample: finished, stopped (by the scheduler), failed, or not decided yet.

    value, loss   validation metric and loss at `epoch`, its last one; None where there is none
    run_id        of its record, for analysis
    """

    sample: Sample
    state: State
    epoch: int = 0
    value: float | None = None
    loss: float | None = None
    run_id: str | None = None


@dataclass(frozen=True)
class Search:
    """A search, resolved. `base` holds the values of the winner's trials but for seed and point;
    it sees all training images.
    """

    space: tuple[Dimension, ...]
    metric: str
    samples: int
    seed: int
    scheduler: Scheduler
    algorithm: str
    held_out: int
    base: Mapping[str, Any]
    tried: tuple[SampleResult, ...] = ()

    @property
    def digest(self) -> str:
        """Tells searches apart. `samples` has no part in it: with more of them a search goes on,
        and its first ones count.
        """
        values = {
            "space": [[d.key, d.kind, list(d.bounds)] for d in self.space],
            "search": [
                self.metric,
                self.seed,
                self.algorithm,
                self.held_out,
                asdict(self.scheduler),
            ],
            "base": self.base,
            "numerics": registry.numerics(self.base),
        }
        return hashlib.sha256(canonical(values).encode()).hexdigest()[:8]

    @property
    def objective(self) -> Metric:
        """What the samples are judged by: its label, and which way is better."""
        return registry.metric(self.metric)

    def value_of(self, epoch: Mapping[str, Any]) -> float | None:
        """The objective in an epoch's recorded numbers; None where it was not evaluated."""
        value = epoch.get(f"test_{recorded_as(self.metric)}")
        return None if value is None else from_recorded(self.metric, value)

    @property
    def epochs(self) -> int:
        return int(self.base["train"]["epochs"])

    def sample(self, number: int, point: Mapping[str, Any]) -> Sample:
        values = _placed(self.base, {**point, "dataset.held_out": self.held_out})
        return Sample(number, dict(point), Trial({**values, "seed": self.seed}))

    def drawn(self) -> tuple[Sample, ...]:
        """A random search's samples, all different; none for an algorithm that learns as it
        goes.
        """
        if self.algorithm != "random":
            return ()
        points = _distinct(self.space, self.samples, self.seed)
        return tuple(self.sample(number, point) for number, point in enumerate(points, start=1))

    def trials(self, point: Mapping[str, Any], seeds: Iterable[int]) -> tuple[Trial, ...]:
        """The trials of a point on the full training set, as a winner's are run."""
        values = _placed(self.base, point)
        return tuple(Trial({**values, "seed": seed}) for seed in seeds)


def describe(point: Mapping[str, Any]) -> str:
    """A point for people: `alpha 0.43, omega 0.12`; whole keys where their last parts coincide."""
    short = [key.rpartition(".")[2] for key in point]
    names = short if len(set(short)) == len(short) else list(point)
    return ", ".join(f"{name} {value}" for name, value in zip(names, point.values(), strict=True))


def winner(
    results: Iterable[SampleResult], samples: int, objective: Metric
) -> SampleResult | None:
    """The finished sample with the best validation metric, then the smallest loss, then the
    smallest number, once all samples are decided.
    """
    decided = [one for one in results if one.state != "undecided"]
    finished = [one for one in decided if one.state == "finished" and one.value is not None]
    if len(decided) < samples or not finished:
        return None

    def rank(one: SampleResult) -> tuple[float, float, int]:
        loss = math.inf if one.loss is None else one.loss
        return objective.gain(0.0, one.value or 0.0), loss, one.sample.number

    return min(finished, key=rank)


def _placed(base: Mapping[str, Any], point: Mapping[str, Any]) -> dict[str, Any]:
    values = copy.deepcopy(dict(base))
    for key, value in point.items():
        section, _, option = key.partition(".")
        values[section][option] = value
    return values


def _distinct(space: Sequence[Dimension], samples: int, seed: int) -> list[dict[str, Any]]:
    """The first `samples` different points of the sequence that the seed gives; fewer where the
    space has no more.
    """
    random, points = Random(seed), list[dict[str, Any]]()
    for _ in range(100 * samples):
        if len(points) == samples:
            break
        point = {dimension.key: dimension.draw(random) for dimension in space}
        if point not in points:
            points.append(point)
    return points
