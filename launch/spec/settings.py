"""From the settings written in a spec to the resolved values of a trial, every mistake kept with
its place.
"""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from launch.spec import catalog
from launch.spec.trial import OPTIONAL, SECTIONS
from launch.spec.yaml_source import Document, Mark, Place, Problem


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


def near(word: str, valid: Iterable[str]) -> str:
    """The end of an error's sentence: "; did you mean 'x'?" where something valid is near, else ";
    valid: a, b, c".
    """
    names = list(valid)
    close = difflib.get_close_matches(str(word), names, n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else f"; valid: {', '.join(names) or 'none'}"


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
                f"unknown section '{section}'{near(section, SECTIONS)}",
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
    """Validates sections against the catalog, each distinct one once; collects problems instead of
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
        why = catalog.misfit(method, backbone)
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
        anywhere = min(
            (s.key for s in given.values()), default=self.document.mark(where, key=True)
        )
        model = (
            catalog.train_options()
            if section == "train"
            else self._choice(section, plain, given, anywhere)
        )
        if model is None:
            return None
        try:
            return model.model_validate(plain).model_dump()
        except ValidationError as error:
            for detail in error.errors():
                self.problems.append(
                    _problem(section, plain.get("name"), detail, given, anywhere, model)
                )
            return None

    def _choice(
        self, section: str, plain: dict[str, Any], given: dict[str, Setting], anywhere: Mark
    ) -> type[BaseModel] | None:
        known = catalog.entries(section)
        if "name" not in plain:
            self.problems.append(Problem(anywhere, f"{section} has no name{near('', known)}"))
            return None
        name = plain["name"]
        if name not in known:
            self.problems.append(
                Problem(given["name"].mark, f"unknown {section} '{name}'{near(name, known)}")
            )
            return None
        return known[name].options


def _problem(
    section: str,
    name: str | None,
    detail: ErrorDetails,
    given: dict[str, Setting],
    anywhere: Mark,
    model: type[BaseModel],
) -> Problem:
    """pydantic's complaint in our words, at the place of the value it is about."""
    what = f"{section} '{name}'" if name else section
    if not detail["loc"]:
        return Problem(anywhere, f"{what} {reason(detail)}")
    option = str(detail["loc"][0])
    if detail["type"] == "missing":
        return Problem(
            given["name"].mark if "name" in given else anywhere, f"{what} needs '{option}'"
        )
    setting = given[option]
    if detail["type"] == "extra_forbidden":
        valid = [field for field in model.model_fields if field != "name"]
        return Problem(setting.key, f"{what} has no option '{option}'{near(option, valid)}")
    return Problem(setting.mark, f"{section}.{option}: {reason(detail)}, found {setting.value!r}")


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
