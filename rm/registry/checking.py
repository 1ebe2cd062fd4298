"""What is wrong with the options that are written for one choice. Standard library only."""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

from rm.registry.option import holds
from rm.registry.source import Entry


class Violation(NamedTuple):
    """One thing wrong with what is written for a section.

    kind      choice: no such choice, or none named; missing: a required option is; option: there
              is no such option; value: not one that the option takes; constraint: not together
    option    which one; None for a choice not named and for a constraint
    message   a whole sentence
    """

    kind: Literal["choice", "missing", "option", "value", "constraint"]
    option: str | None
    message: str


def suggestion(word: str, valid: Iterable[str]) -> str:
    """The end of an error's sentence: "; did you mean 'x'?" where something valid is near, else ";
    valid: a, b, c".
    """
    names = list(valid)
    close = difflib.get_close_matches(str(word), names, n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else f"; valid: {', '.join(names) or 'none'}"


def check_options(
    chosen: Entry, written: Mapping[str, Any]
) -> tuple[dict[str, Any], list[Violation]]:
    """The values of all options, and what is wrong with any of them; of a plugin's choice its
    digest too.
    """
    values: dict[str, Any] = {}
    digest = getattr(chosen, "digest", None)
    if digest is not None:
        values["plugin"] = digest
        planned = written.get("plugin", digest)
        written = {key: value for key, value in written.items() if key != "plugin"}
        if planned != digest:
            message = f"{chosen.title} was planned with another content of {chosen.file}"
            return values, [Violation("value", None, message)]
    wrong = [
        Violation(
            "option", key, f"{chosen.title} has no option '{key}'{suggestion(key, chosen.options)}"
        )
        for key in written
        if key not in chosen.options
    ]
    for name, option in chosen.options.items():
        if name not in written and option.required:
            wrong.append(Violation("missing", name, f"{chosen.title} needs '{name}'"))
            continue
        value = written.get(name, option.default)
        try:
            values[name] = option.check(value)
        except ValueError as error:
            message = f"{chosen.section}.{name}: {error}, found {value!r}"
            wrong.append(Violation("value", name, message))
    return values, wrong


def check_constraints(chosen: Entry, values: Mapping[str, Any]) -> Iterator[Violation]:
    for condition, why in chosen.constraints.items():
        if not holds(condition, values):
            message = f"{chosen.title} must satisfy {condition}: {why}"
            yield Violation("constraint", None, message)


def not_for_task(
    section: str, name: str, known: Mapping[str, Entry], task: Entry
) -> Iterator[tuple[str, str]]:
    """The data set, head or method of another task: (the section, a sentence). A task that has
    data sets or heads of its own takes no others.
    """
    if section == "method":
        valid = [each for each in known if task.name in (known[each].tasks or (task.name,))]
    else:
        own = [each for each in known if known[each].task == task.name]
        valid = own or [each for each in known if not known[each].task]
    if name not in valid:
        yield section, f"{known[name].title} is not for {task.title}; valid: {', '.join(valid)}"
