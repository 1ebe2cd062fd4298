"""One frozen, fully resolved training configuration with its seed, and the identity that follows
from it.
"""

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rm import registry

_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


def canonical(values: Any) -> str:
    """The one JSON text of these values: sorted keys, no spaces, shortest floats."""
    return _ENCODER.encode(values)


def identity(section: str, values: Any) -> Any:
    """What of a section's values can change a number, and so is hashed."""
    left_out = registry.NOT_IDENTITY.get(section)
    if left_out is None or not any(option in values for option in left_out):
        return values
    return {option: value for option, value in values.items() if option not in left_out}


def trial_id(values: Mapping[str, Any], numerics: int | None = None) -> str:
    """sha256 of the canonical resolved values and rm.NUMERICS (or that of an older record), its
    first 12 hex digits.
    """
    number = registry.numerics(values) if numerics is None else numerics
    hashed = {section: identity(section, value) for section, value in values.items()}
    return hashlib.sha256(f"{canonical(hashed)}{number}".encode()).hexdigest()[:12]


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
        cls,
        sections: Mapping[str, Any],
        seeds: Iterable[int],
        texts: dict[int, str],
        inits: Sequence[Mapping[str, Any]] = (),
    ) -> tuple["Trial", ...]:
        """A trial for each seed, with its id: what the seeds share is written out and hashed once.

        texts   canonical texts by the `id()` of the section they are of; filled here, for sections
                that outlive it
        inits   what the trial of each seed starts from; empty: random weights
        """
        for name, section in sections.items():
            if id(section) not in texts:
                texts[id(section)] = canonical(identity(name, section))
        parts = [(name, f'"{name}":{texts[id(section)]},') for name, section in sections.items()]
        parts.sort()
        shared = "".join(text for name, text in parts if name < "init")
        between = "".join(text for name, text in parts if "init" < name < "seed")
        after = "".join(f",{text[:-1]}" for name, text in parts if name > "seed")
        tail = f"{after}}}{registry.numerics(sections)}"
        begun = hashlib.sha256(f"{{{shared}".encode())
        trials = []
        for seed, init in zip(seeds, inits or itertools.repeat(None), strict=bool(inits)):
            own = "" if init is None else f'"init":{canonical(identity("init", init))},'
            digest = begun.copy()
            digest.update(f'{own}{between}"seed":{seed}{tail}'.encode())
            starts = {} if init is None else {"init": init}
            trial = cls({**sections, **starts, "seed": seed})
            trial.__dict__["id"] = digest.hexdigest()[:12]  # as the cached property would have it
            trials.append(trial)
        return tuple(trials)

    @property
    def seed(self) -> int:
        return int(self.values["seed"])

    @property
    def epochs(self) -> int:
        """How many it trains for; none where it is measured only."""
        return 0 if "probe" in self.values else int(self.values["train"]["epochs"])

    @property
    def parents(self) -> tuple[str, ...]:
        """The ids of the trials whose weights it starts from."""
        init = self.values.get("init", {})
        return (init["trial"],) if "trial" in init else ()

    def to_json(self) -> str:
        """The content of `trial.json`: the values, with id and numerics for whoever reads it
        alone.
        """
        return json.dumps(
            {"id": self.id, "numerics": registry.numerics(self.values), **self.values},
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
