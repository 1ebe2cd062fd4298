"""From the settings written in a spec to the resolved values of a trial, every mistake kept with
its place.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic_core import ErrorDetails

from launch.spec.yaml_source import Document, Mark, Place, Problem
from rm import registry
from rm.registry import OPTIONAL, Violation, suggestion
from rm.registry import TRIAL_SECTIONS as SECTIONS


class Setting(NamedTuple):
    """One written value and where it stands."""

    value: Any
    mark: Mark
    key: Mark


Settings = dict[tuple[str, str], Setting]
"""(section, option) -> what is written for it; a section's choice is its option "name"."""


class Written(NamedTuple):
    """What one place of a spec sets, and what it says about values that the paper does not
    state.
    """

    settings: Settings
    assumed: dict[str, str]


def settings_at(
    document: Document, at: Place, data: Any, problems: list[Problem], skip: tuple[str, ...] = ()
) -> Written:
    """The settings of the mapping at `at`: sections (`method: cutmix`), and dotted keys
    (`method.alpha: 0.5`).
    """
    found = Written({}, {})
    if not isinstance(data, Mapping):
        problems.append(
            Problem(
                document.mark(at), f"expected settings such as {{method: cutmix}}, found {data!r}"
            )
        )
        return found
    for key, value in data.items():
        if key == "assumed":
            problems.append(
                Problem(
                    document.mark((*at, key), key=True),
                    "'assumed' belongs inside a section, beside its value",
                )
            )
        elif key not in skip:
            set_value(document, key, value, (*at, key), found, problems)
    return found


def set_value(
    document: Document, key: str, value: Any, at: Place, into: Written, problems: list[Problem]
) -> None:
    """Read what `key` (a section or a dotted key) is set to, written at `at`, into `into`."""
    section, _, option = key.partition(".")
    if section not in SECTIONS:
        problems.append(
            Problem(
                document.mark(at, key=True),
                f"unknown section '{section}'{suggestion(section, SECTIONS)}",
            )
        )
        return
    here, key_mark = document.mark(at), document.mark(at, key=True)
    if option:
        into.settings[section, option] = Setting(value, here, key_mark)
    elif isinstance(value, str) and section != "train":
        into.settings[section, "name"] = Setting(value, here, key_mark)
    elif isinstance(value, Mapping):
        for name, item in value.items():
            if name == "assumed":
                _read_assumed(document, section, item, (*at, name), value, into.assumed, problems)
            else:
                place = (*at, name)
                into.settings[section, name] = Setting(
                    item, document.mark(place), document.mark(place, key=True)
                )
    else:
        wanted = (
            "a mapping of options"
            if section == "train"
            else "a name, or a mapping with 'name' and options"
        )
        problems.append(Problem(here, f"{section} must be {wanted}, found {value!r}"))


def _read_assumed(
    document: Document,
    section: str,
    item: Any,
    at: Place,
    beside: Mapping[str, Any],
    into: dict[str, str],
    problems: list[Problem],
) -> None:
    """`assumed: "why"` speaks of every option beside it, `assumed: {alpha: "why"}` of those it
    names.
    """
    if isinstance(item, str):
        into.update(
            {f"{section}.{name}": item for name in beside if name not in ("assumed", "name")}
        )
    elif isinstance(item, Mapping) and all(isinstance(why, str) for why in item.values()):
        into.update({f"{section}.{name}": why for name, why in item.items()})
    else:
        problems.append(
            Problem(
                document.mark(at),
                f"assumed must be the reason, or a mapping option: reason; found {item!r}",
            )
        )


def merge(base: Written, over: Written) -> Written:
    """`over` on top of `base`. Another name for a section's choice discards the options of the
    former one.
    """
    settings, assumed = dict(base.settings), dict(base.assumed)
    for (section, option), setting in over.settings.items():
        if option == "name" and (section, "name") in base.settings:
            settings = {k: v for k, v in settings.items() if k[0] != section or k in over.settings}
            assumed = {k: v for k, v in assumed.items() if not k.startswith(f"{section}.")}
        settings[section, option] = setting
    return Written(settings, {**assumed, **over.assumed})


class Resolver:
    """Validates sections against the registry, each distinct one once; collects problems instead of
    raising.
    """

    def __init__(self, document: Document, problems: list[Problem]) -> None:
        self.document, self.problems = document, problems
        self._known: dict[str, dict[str, Any] | None] = {}
        self._kept: list[dict[str, Setting]] = []
        self._unfit: set[tuple[Mark, str]] = set()

    def values(self, settings: Settings, where: Place) -> dict[str, Any] | None:
        """The resolved sections of a trial, defaults included, or None where something in them is
        wrong.

        `where` is the place to blame for a section that is missing altogether.
        """
        sections: dict[str, dict[str, Setting]] = {section: {} for section in SECTIONS}
        for (section, option), setting in settings.items():
            sections[section][option] = setting
        wanted = {
            section: given
            for section, given in sections.items()
            if given or section not in OPTIONAL
        }
        resolved = {
            section: self._section(section, given, where) for section, given in wanted.items()
        }
        method, backbone = resolved["method"], resolved["backbone"]
        if method is not None and backbone is not None:
            self._check_fit(method["name"], backbone["name"], sections["method"]["name"].mark)
        if any(values is None for values in resolved.values()):
            return None
        return resolved

    def _check_fit(self, method: str, backbone: str, mark: Mark) -> None:
        """A problem at the method for each backbone that has not what it needs, once however many
        trials meet it.
        """
        why = registry.incompatibility(method, backbone)
        if why is not None and (mark, why) not in self._unfit:
            self._unfit.add((mark, why))
            self.problems.append(Problem(mark, why))

    def _section(
        self, section: str, given: dict[str, Setting], where: Place
    ) -> dict[str, Any] | None:
        key = [
            section,
            *(str(id(setting)) for setting in given.values()),
        ]  # the very settings: values and places
        memo = " ".join(key)
        if memo not in self._known:
            self._kept.append(given)
            plain = {option: setting.value for option, setting in given.items()}
            self._known[memo] = self._validate(section, plain, given, where)
        return self._known[memo]

    def _validate(
        self, section: str, plain: dict[str, Any], given: dict[str, Setting], where: Place
    ) -> dict[str, Any] | None:
        fallback = min(
            (s.key for s in given.values()), default=self.document.mark(where, key=True)
        )
        values, wrong = registry.check(section, plain)
        self.problems += [
            Problem(_mark(violation, given, fallback), violation.message) for violation in wrong
        ]
        return None if wrong else values


def _mark(violation: Violation, given: Mapping[str, Setting], fallback: Mark) -> Mark:
    """Where what is wrong stands: a value, the key of an unknown option, the choice that lacks
    one.
    """
    if violation.kind == "missing":
        return given["name"].mark if "name" in given else fallback
    if violation.option is None:
        return fallback
    setting = given[violation.option]
    return setting.key if violation.kind == "option" else setting.mark


def reason(detail: ErrorDetails) -> str:
    """What would have been valid, in one phrase."""
    if detail["type"] == "value_error":
        return str(detail["ctx"]["error"])
    if detail["type"] == "literal_error":
        return f"must be {detail['ctx']['expected']}"
    return (
        detail["msg"]
        .replace("Input should be a valid", "must be a valid")
        .replace("Input should", "should")
    )
