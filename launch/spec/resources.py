"""What one trial is trained on: so many nodes with so many GPUs each, one process a GPU. Not part
of its identity.

`batch_norm_groups` says what batch norm sees, whatever number of processes there is; that number
changes the order of sums and how a batch is shared out, as another kind of GPU would. In a spec
`resources` stands at the top, in a row, in a labelled group of settings, or in a profile.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from rm.registry import suggestion

if TYPE_CHECKING:  # a bare node, which runs trials and reads no specs, has no YAML
    from launch.spec.grammar.yaml_source import YamlPath, YamlSource
    from launch.spec.trial import Trial

T = TypeVar("T")


class Resources(NamedTuple):
    """Of one trial; `gpus` on each node. Where there are none, as many processes on the CPU."""

    nodes: int = 1
    gpus: int = 1

    @property
    def processes(self) -> int:
        return self.nodes * self.gpus

    def __str__(self) -> str:
        gpus = f"{self.gpus} GPU{'s' * (self.gpus > 1)}"
        return f"{self.nodes} nodes with {gpus} each" if self.nodes > 1 else gpus


ONE = Resources()


def parse(text: str) -> Resources:
    """What `--gpus` takes: `8`, or `2x4` for two nodes with four each."""
    found = re.fullmatch(r"(?:([1-9]\d*)x)?([1-9]\d*)", text)
    if found is None:
        raise argparse.ArgumentTypeError(
            f"must be a number of GPUs such as 8, or NODESxGPUS such as 2x4; found '{text}'"
        )
    return Resources(int(found[1] or 1), int(found[2]))


def incompatibility(values: Mapping[str, Any], resources: Resources) -> str | None:
    """Why a trial of these values cannot be trained by so many processes, or None."""
    count = resources.processes
    if count == 1:
        return None
    if "probe" in values:
        return f"a measurement (probe) takes one process, not {count}"
    batch, groups = values["train"]["batch_size"], values["train"]["batch_norm_groups"]
    if "head" in values and groups == 1:
        groups = count  # its batch norms are frozen, or see the batch of all processes
    parts = values.get("task", {}).get("micro_batches", 1)
    if parts % count and count % parts:
        return (
            f"task.micro_batches {parts} cannot be shared by {count} processes ({resources}): one "
            "must be a multiple of the other"
        )
    if batch % count or groups % count:
        common = math.gcd(batch, groups)
        valid = ", ".join(str(n) for n in range(1, common + 1) if common % n == 0)
        return (
            f"train.batch_size {batch} and train.batch_norm_groups {groups} cannot be shared by "
            f"{count} processes ({resources}): both must be multiples of it; valid: {valid}"
        )
    return None


class Located(NamedTuple, Generic[T]):
    """A value, and where it stands."""

    value: T
    at: YamlPath


DEFAULT: Located[Resources] = Located(ONE, ())
"""Where none are written."""


def read_resources(
    source: YamlSource, at: YamlPath, data: Mapping[str, Any]
) -> Located[Resources] | None:
    """`resources: {nodes: 1, gpus: 8}` of the mapping at `at`, where it has any."""
    written, place = data.get("resources"), (*at, "resources")
    if written is None:
        return None
    if not isinstance(written, Mapping):
        message = f"resources must be a mapping such as {{nodes: 1, gpus: 8}}, found {written!r}"
        source.error(place, message)
        return None
    fine = True
    for key, value in written.items():
        if key not in Resources._fields:
            message = f"resources has no '{key}'{suggestion(str(key), Resources._fields)}"
            source.error((*place, key), message, key=True)
        elif type(value) is not int or value < 1:
            message = f"resources.{key} must be a whole number >= 1, found {value!r}"
            source.error((*place, key), message)
        else:
            continue
        fine = False
    return Located(Resources(**written), place) if fine else None


def check_resources(
    source: YamlSource, used: Sequence[tuple[Located[Resources], Trial]], searches: bool
) -> None:
    """Note at each `resources` what its trials cannot be trained on."""
    for resources, trial in used:
        why = incompatibility(trial.values, resources.value)
        if searches and resources.value != ONE:
            why = "a spec that searches trains each trial on one GPU"
        if why is not None:
            source.error(resources.at, why, key=True)
