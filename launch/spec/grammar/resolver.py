"""From settings to the resolved sections of a trial, every mistake noted at its place."""

from collections.abc import Mapping
from typing import Any

from launch.spec.grammar.settings import Setting, Settings
from launch.spec.grammar.yaml_source import Position, YamlPath, YamlSource
from rm import registry
from rm.registry import DEFAULT_TASK, OPTIONAL, Violation

Sections = dict[str, dict[str, Setting]]


class Resolver:
    """Checks sections against the registry, each distinct one once."""

    def __init__(self, source: YamlSource) -> None:
        self.source = source
        self._resolved: dict[tuple[Any, ...], dict[str, Any] | None] = {}
        self._checked: dict[tuple[Any, ...], list[tuple[str, str]]] = {}
        self._needed: dict[str, dict[str, dict[str, Setting]]] = {}
        """By the name of a task, the sections that its trials must have, empty."""
        self._kept: list[Any] = []
        """What `id()`s are of, so that no other object gets them."""

    def values(self, settings: Settings, where: YamlPath) -> dict[str, Any] | None:
        """The resolved sections of a trial, defaults included, all but `init`; None where
        something in them is wrong.

        where   the place to blame for a section that is missing altogether
        """
        sections: Sections = {}
        for (section, option), setting in settings.items():
            sections.setdefault(section, {})[option] = setting
        init = sections.pop("init", {})
        starts = bool(init) and "none" not in init and set(init) != {"profile"}
        resolved = {
            section: self._section(section, given, where)
            for section, given in self._complete(sections).items()
        }
        if any(values is None for values in resolved.values()):
            return None
        values = {section: found for section, found in resolved.items() if found != "none"}
        wrong = self._check_together(values, starts) or list(registry.check_values(values))
        for section, message in wrong:
            self.source.error(self._blame(section, {**sections, "init": init}, where), message)
        return None if wrong else values

    def _complete(self, sections: Sections) -> Sections:
        """With the sections that are not written and that the task needs, empty."""
        written = sections.get("task", {}).get("name")
        name = str(written.value) if written else DEFAULT_TASK
        if name not in self._needed:
            known = registry.entries("task").get(name)
            uses = known.uses if known else ()
            self._needed[name] = {section: {} for section in uses if section not in OPTIONAL}
        return {**self._needed[name], **sections}

    def _check_together(self, values: dict[str, Any], starts: bool) -> list[tuple[str, str]]:
        """What is wrong with valid sections together; asked once for the same names."""
        names = (v if isinstance(v, str) else v.get("name") for v in values.values())
        key = (starts, *values, *names)
        if key not in self._checked:
            stub = {"init": registry.check("init", {})[0]} if starts else {}
            self._checked[key] = list(registry.check_together({**values, **stub}))
        return self._checked[key]

    def _blame(self, section: str, sections: Sections, where: YamlPath) -> Position:
        written = sections.get(section, {})
        if "name" in written:
            return written["name"].position
        fallback = self.source.position(where, key=True)
        return min((setting.key for setting in written.values()), default=fallback)

    def _section(self, section: str, written: dict[str, Setting], where: YamlPath) -> Any:
        """The resolved values of one section, or None."""
        if section == "freeze":
            return written["name"].value
        key = (section, *map(id, written.values()))
        if key not in self._resolved:
            self._kept.append(written)
            self._resolved[key] = self._check(section, written, where)
        return self._resolved[key]

    def _check(
        self, section: str, written: Mapping[str, Setting], where: YamlPath
    ) -> dict[str, Any] | None:
        fallback = min(
            (setting.key for setting in written.values()),
            default=self.source.position(where, key=True),
        )
        plain = {option: setting.value for option, setting in written.items()}
        values, wrong = registry.check(section, plain)
        for violation in wrong:
            self.source.error(_place(violation, written, fallback), violation.message)
        return None if wrong else values


def _place(violation: Violation, written: Mapping[str, Setting], fallback: Position) -> Position:
    """Where what is wrong stands: a value, the key of an unknown option, the choice that lacks
    one.
    """
    if violation.kind == "missing":
        return written["name"].position if "name" in written else fallback
    if violation.option is None:
        return fallback
    setting = written[violation.option]
    return setting.key if violation.kind == "option" else setting.position
