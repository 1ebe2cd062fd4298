"""The keys of a mapping in a spec, read against the annotated fields of a dataclass, as strictly
as the options of a trial are and by the same code (`rm.registry`).
"""

from collections.abc import Mapping
from typing import Any

from launch.spec.grammar.yaml_source import YamlPath, YamlSource
from rm import registry
from rm.registry import suggestion


def read_fields(
    source: YamlSource,
    at: YamlPath,
    data: Any,
    shape: type,
    what: str,
    *,
    prefix: str = "",
    places: Mapping[str, YamlPath] | None = None,
) -> dict[str, Any]:
    """What is rightly written of the fields of `shape`; everything else is noted as a mistake.

    what     how a message calls the mapping: "a search"
    prefix   before a key in a message: "search."
    places   of keys that do not stand in the mapping at `at`
    """
    if not isinstance(data, Mapping):
        source.error(at, f"{what} is a mapping, found {data!r}")
        return {}
    fields = registry.fields_of(shape)
    found: dict[str, Any] = {}
    for key, value in data.items():
        place = (places or {}).get(key, (*at, key))
        if key not in fields:
            valid = [name for name in fields if name != "name"] if "name" in data else fields
            source.error(place, f"{what} has no '{key}'{suggestion(key, valid)}", key=True)
            continue
        try:
            found[key] = fields[key].check(value)
        except ValueError as error:
            source.error(place, f"{prefix}{key}: {error}, found {value!r}")
    for name, option in fields.items():
        if option.required and name not in data:
            source.error(at, f"{what} needs '{name}'", key=bool(at))
    return found
