"""One frozen, fully resolved training configuration with its seed, and the identity that follows
from it.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rm import registry


def canonical(values: Mapping[str, Any]) -> str:
    """The one JSON text of these values: sorted keys, no spaces, shortest floats."""
    return json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)


def trial_id(values: Mapping[str, Any], numerics: int | None = None) -> str:
    """sha256 of the canonical resolved values and rm.NUMERICS (or that of an older record), its
    first 12 hex digits.
    """
    number = registry.numerics() if numerics is None else numerics
    return hashlib.sha256(f"{canonical(values)}{number}".encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Trial:
    """Every resolved value of one training, or of one measurement (`probe`), defaults included:
    its sections and the seed.

    Labels, published numbers, backends and machines are not part of it.
    """

    values: Mapping[str, Any]

    @cached_property
    def id(self) -> str:
        return trial_id(self.values)

    @classmethod
    def for_seeds(
        cls, sections: Mapping[str, Any], seeds: Iterable[int], texts: dict[int, str]
    ) -> tuple["Trial", ...]:
        """A trial for each seed, with its id: what the seeds share is written out and hashed once.

        texts   canonical texts by the `id()` of the section they are of; filled here, for sections
                that outlive it
        """
        for section in sections.values():
            if id(section) not in texts:
                texts[id(section)] = canonical(section)
        parts = {name: f'"{name}":{texts[id(section)]}' for name, section in sections.items()}
        head = (
            "{" + "".join(f"{parts[name]}," for name in sorted(parts) if name < "seed") + '"seed":'
        )
        tail = (
            "".join(f",{parts[name]}" for name in sorted(parts) if name > "seed")
            + f"}}{registry.numerics()}"
        )
        begun = hashlib.sha256(head.encode())
        trials = []
        for seed in seeds:
            digest = begun.copy()
            digest.update(f"{seed}{tail}".encode())
            trial = cls({**sections, "seed": seed})
            trial.__dict__["id"] = digest.hexdigest()[
                :12
            ]  # what the cached property would compute
            trials.append(trial)
        return tuple(trials)

    @property
    def seed(self) -> int:
        return int(self.values["seed"])

    @property
    def epochs(self) -> int:
        """How many it trains for; none where it is measured only."""
        return 0 if "probe" in self.values else int(self.values["train"]["epochs"])

    def to_json(self) -> str:
        """The content of `trial.json`: the values, with id and numerics for whoever reads it
        alone.
        """
        return json.dumps(
            {"id": self.id, "numerics": registry.numerics(), **self.values},
            indent=1,
            ensure_ascii=False,
        )

    def flat(self) -> dict[str, Any]:
        """The values under dotted keys: {"method.alpha": 0.5, "seed": 0, ...}."""
        return dict(flatten(self.values))


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, leaf) of a nested mapping; lists are leaves."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
