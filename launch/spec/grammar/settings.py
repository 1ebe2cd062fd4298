"""What a spec writes of a trial: settings in layers, each with its place, later ones on top."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from launch.spec.grammar.yaml_source import Position, YamlPath, YamlSource
from rm.registry import SHAPES, TRIAL_SECTIONS, suggestion

INIT_KINDS = ("from", "file", "trial", "none")
"""Keys of `init` of which one says what kind of start it is; another one discards the former's."""


class Setting(NamedTuple):
    """One written value and where it stands."""

    value: Any
    position: Position
    key: Position
    at: YamlPath
    """Where what is inside the value stands."""


Settings = dict[tuple[str, str], Setting]
"""(section, option) -> what is written for it; a section's choice is its option "name"."""


class SettingsLayer(NamedTuple):
    """What one place of a spec sets, and what it says about values that the paper does not
    state.
    """

    settings: Settings
    assumed: dict[str, str]

    def merge(self, over: "SettingsLayer") -> "SettingsLayer":
        """`over` on top. Another name for a section's choice discards the options of the former
        one, another kind of start everything that was said of the former start.
        """
        settings, assumed = dict(self.settings), dict(self.assumed)
        for (section, option), setting in over.settings.items():
            renamed = option == "name" and (section, "name") in self.settings
            if renamed or (section == "init" and option in INIT_KINDS):
                settings = {
                    k: v for k, v in settings.items() if k[0] != section or k in over.settings
                }
                assumed = {k: v for k, v in assumed.items() if not k.startswith(f"{section}.")}
            settings[section, option] = setting
        return SettingsLayer(settings, {**assumed, **over.assumed})


def read_settings(
    source: YamlSource, at: YamlPath, data: Any, skip: tuple[str, ...] = ()
) -> SettingsLayer:
    """The settings of the mapping at `at`: sections (`method: cutmix`), and dotted keys
    (`method.alpha: 0.5`).
    """
    layer = SettingsLayer({}, {})
    if not isinstance(data, Mapping):
        source.error(at, f"expected settings such as {{method: cutmix}}, found {data!r}")
        return layer
    for key, value in data.items():
        if key == "assumed":
            message = "'assumed' belongs inside a section, beside its value"
            source.error((*at, key), message, key=True)
        elif key not in skip:
            read_setting(source, key, value, (*at, key), layer)
    return layer


def read_setting(
    source: YamlSource, key: str, value: Any, at: YamlPath, into: SettingsLayer
) -> None:
    """Read what `key` (a section or a dotted key) is set to, written at `at`, into a layer."""
    section, _, option = key.partition(".")
    if section not in TRIAL_SECTIONS:
        message = f"unknown section '{section}'{suggestion(section, TRIAL_SECTIONS)}"
        source.error(at, message, key=True)
        return

    def setting(value: Any, at: YamlPath) -> Setting:
        return Setting(value, source.position(at), source.position(at, key=True), at)

    if option:
        into.settings[section, option] = setting(value, at)
    elif section == "init" and value == "none":
        into.settings[section, "none"] = setting(value, at)
    elif isinstance(value, str) and section not in SHAPES:
        into.settings[section, "name"] = setting(value, at)
    elif isinstance(value, Mapping) and section != "freeze":
        for name, item in value.items():
            if name == "assumed":
                _read_assumed(source, section, item, (*at, name), value, into.assumed)
            else:
                into.settings[section, name] = setting(item, (*at, name))
    else:
        source.error(at, f"{section} must be {_EXPECTED.get(section, _CHOICE)}, found {value!r}")


_CHOICE = "a name, or a mapping with 'name' and options"
_EXPECTED = {
    "train": "a mapping of options",
    "init": "'none', or a mapping with 'from' and 'row', 'file' and 'sha256', or 'trial'",
    "freeze": "'backbone', 'random backbone' or 'none'",
}


def _read_assumed(
    source: YamlSource,
    section: str,
    item: Any,
    at: YamlPath,
    beside: Mapping[str, Any],
    into: dict[str, str],
) -> None:
    """`assumed: "why"` speaks of every option beside it, `assumed: {alpha: "why"}` of those it
    names.
    """
    if isinstance(item, str):
        into |= {f"{section}.{name}": item for name in beside if name not in ("assumed", "name")}
    elif isinstance(item, Mapping) and all(isinstance(why, str) for why in item.values()):
        into |= {f"{section}.{name}": why for name, why in item.items()}
    else:
        message = f"assumed must be the reason, or a mapping option: reason; found {item!r}"
        source.error(at, message)
