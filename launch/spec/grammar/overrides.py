"""`--set train.epochs=5`: settings from the command line, on top of all that a spec says, and
checked as if they stood in it; what is wrong is said of the argument.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from launch.spec.grammar.settings import Settings, SettingsLayer, read_setting
from launch.spec.grammar.yaml_source import Position, YamlSource, parse
from rm import registry
from rm.registry import suggestion


class Overrides:
    """The settings of `--set`, each for the rows that have such an option: `method.alpha=0.3` is
    none of a baseline's.

    texts   each `key=value`, as it is typed
    """

    def __init__(self, source: YamlSource, texts: Sequence[str]) -> None:
        self.source, self.texts = source, tuple(texts)
        self.layer = SettingsLayer({}, {})
        self._taken: set[tuple[str, str]] = set()
        self._others: dict[tuple[str, str], dict[str, None]] = {}
        """Of a setting that some rows do not take, the options that they have."""
        for i, text in enumerate(texts):
            self._read(text, ("--set", i))

    def _read(self, text: str, at: tuple[str, int]) -> None:
        key, equals, value = text.partition("=")
        key = key.strip()
        place = Position(0, 0, f"--set {text}")
        self.source.keys[at] = self.source.values[at] = place
        if not equals or not value.strip():
            self.source.error(place, "expected key=value, such as train.epochs=5")
        elif key in ("seeds", "seed"):
            self.source.error(place, "seeds are chosen by --seeds 0,1,2")
        else:
            found, wrong = parse(value)
            if wrong is not None:
                self.source.error(place, wrong)
            else:
                before = dict(self.layer.settings)
                read_setting(self.source, key, found, at, self.layer)
                _check_once(self.source, place, before, self.layer.settings)

    def on(self, layer: SettingsLayer) -> SettingsLayer:
        """A row's settings with those of the overrides that it takes."""
        if not self.layer.settings:
            return layer
        taken: Settings = {}
        for (section, option), setting in self.layer.settings.items():
            known = self._options(section, layer.settings)
            if known is None or option in (*known, "name"):
                taken[section, option] = setting
                self._taken.add((section, option))
            else:
                self._others.setdefault((section, option), {}).update(dict.fromkeys(known))
        return layer.merge(SettingsLayer(taken, {}))

    def _options(self, section: str, settings: Settings) -> Iterable[str] | None:
        """The options of the section's choice in a row; None where it is not for us to say."""
        name = self.layer.settings.get((section, "name")) or settings.get((section, "name"))
        if section not in registry.SECTIONS or name is None:
            return None
        chosen = registry.entries(section).get(str(name.value))
        return chosen.options if chosen else None

    def check_all_taken(self) -> None:
        """Note those that no row takes."""
        for (section, option), known in self._others.items():
            if (section, option) not in self._taken:
                message = f"no row has a {section} with the option '{option}'"
                place = self.layer.settings[section, option].key
                self.source.error(place, f"{message}{suggestion(option, known)}")


def _check_once(source: YamlSource, place: Position, before: Settings, after: Settings) -> None:
    for (section, option), setting in before.items():
        if after.get((section, option)) is not setting:
            message = f"{section}{'' if option == 'name' else '.' + option} is set twice"
            source.error(place, message)


def is_setting(word: str) -> bool:
    """Whether a word among specs is a `key=value` rather than a file's name."""
    if word.startswith("-"):
        return False
    return "=" in word and not word.endswith((".yaml", ".yml")) and not Path(word).exists()
