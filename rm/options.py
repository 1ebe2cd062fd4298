"""A trial as `rm` reads it: trial.json with the options of every choice filled in and checked
against their annotations.

The choices are found in the file system: `method: cutmix` is the class in `rm/methods/cutmix.py`,
`backbone: resnet18` the function of that name in some file of `rm/backbones/`.
`launch/spec/catalog.py` reads the same source without importing it.
"""

import functools
import importlib
import inspect
import json
import pkgutil
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

from rm import NUMERICS

SECTIONS = {
    "dataset": "datasets",
    "backbone": "backbones",
    "method": "methods",
    "optimizer": "optimizers",
    "schedule": "schedules",
    "probe": "probes",
}
OPTIONAL = ("probe",)
"""Sections that a trial may be without: without a probe it is trained."""


class TrialError(ValueError):
    """A trial that cannot be trained as written; the message says what is wrong and what would be
    valid.
    """


@dataclass(frozen=True)
class Train:
    """Options of the training loop itself.

    batch_size          images a step, over all processes
    batch_norm_groups   batch norm sees 1/groups of the batch, as when it is spread over that many
                        devices
    precision           fp16 uses a gradient scaler
    label_smoothing     mass epsilon/(K-1) on each other class
    clip_norm           largest gradient norm; 0 is off
    evaluate_every      epochs between evaluations on the test split; the last epoch always has one
    """

    epochs: Annotated[int, "epochs >= 1"]
    batch_size: Annotated[int, "batch_size >= 1"]
    batch_norm_groups: Annotated[int, "batch_norm_groups >= 1"] = 1
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    channels_last: bool = True
    compile: bool = False
    label_smoothing: Annotated[float, "0 <= label_smoothing < 1"] = 0.0
    clip_norm: Annotated[float, "clip_norm >= 0"] = 0.0
    evaluate_every: Annotated[int, "evaluate_every >= 1"] = 1


@dataclass(frozen=True)
class Trial:
    """The resolved trial: a {name, options} mapping for each choice, the loop's options, the
    seed.
    """

    id: str
    seed: int
    train: Train
    choices: Mapping[str, Mapping[str, Any]]

    @property
    def probe(self) -> str | None:
        """What is measured of this trial instead of training it."""
        return self.name("probe") if "probe" in self.choices else None

    def name(self, section: str) -> str:
        return str(self.choices[section]["name"])

    def options(self, section: str) -> dict[str, Any]:
        """The keyword arguments of a section's choice."""
        return {key: value for key, value in self.choices[section].items() if key != "name"}


def load_trial(path: Path) -> Trial:
    """Read a trial.json. Options left out take their defaults; raises TrialError for anything
    wrong in it.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TrialError(f"{path}: not a readable trial: {error}") from None
    if not isinstance(data, dict):
        raise TrialError(f"{path}: a trial is a JSON object, found {type(data).__name__}")
    numerics = data.pop("numerics", NUMERICS)
    if numerics != NUMERICS:
        raise TrialError(
            f"{path}: written for numerics {numerics}, but this rm computes numerics {NUMERICS}; "
            "plan it again"
        )
    try:
        return parse_trial(data)
    except TrialError as error:
        raise TrialError(f"{path}: {error}") from None


def parse_trial(data: Mapping[str, Any]) -> Trial:
    """A trial from plain values; raises TrialError for unknown sections, choices, options, and
    values out of range.
    """
    unknown = set(data) - {"id", "seed", "train", *SECTIONS}
    missing = {"seed", "train", *SECTIONS} - set(data) - set(OPTIONAL)
    if unknown or missing:
        raise TrialError(f"unknown sections {sorted(unknown)}, missing sections {sorted(missing)}")
    if type(data["seed"]) is not int or data["seed"] < 0:
        raise TrialError(f"seed must be a whole number >= 0, found {data['seed']!r}")
    choices = {}
    for section in (section for section in SECTIONS if section in data):
        given = dict(data[section])
        choice = find(section, str(given.pop("name", None)))
        choices[section] = {"name": data[section]["name"], **_checked(section, choice, given)}
    _check_fit(choices["method"]["name"], choices["backbone"]["name"])
    train = Train(**_checked("train", Train, dict(data["train"])))
    return Trial(str(data.get("id", "unnamed")), data["seed"], train, choices)


def _check_fit(method: str, backbone: str) -> None:
    """TrialError where a method's `NEEDS` are not all among what the backbone's file says it
    `HAS`.
    """
    needs = _declared(find("method", method), "NEEDS", method)
    has = {
        name: _declared(build(), "HAS", name)
        for name, build in sorted(choices_of("backbone").items())
    }
    if lacking := " and ".join(sorted(needs - has[backbone])):
        valid = ", ".join(name for name, features in has.items() if needs <= features)
        raise TrialError(
            f"method '{method}' needs a backbone with {lacking}; {backbone} has none; valid: "
            f"{valid or 'none'}"
        )


def _declared(choice: Callable[..., Any], constant: str, name: str) -> set[str]:
    """A file's NEEDS or HAS: one for all that it defines, or a mapping from each name."""
    features = getattr(importlib.import_module(choice.__module__), constant, ())
    return set(features.get(name, ()) if isinstance(features, dict) else features)


def find(section: str, name: str) -> Callable[..., Any]:
    """The class or function that a section's choice names; TrialError names the valid ones."""
    known = choices_of(section)
    if name not in known:
        raise TrialError(f"unknown {section} '{name}'; valid: {', '.join(sorted(known))}")
    return known[name]()


def choices_of(section: str) -> dict[str, Callable[[], Callable[..., Any]]]:
    """Name -> a function that returns the choice. A method's file is imported only when its name
    is asked for.
    """
    package = importlib.import_module(f"rm.{SECTIONS[section]}")
    if section == "method":
        return {
            m.name: functools.partial(_only_class, package, m.name)
            for m in pkgutil.iter_modules(package.__path__)
            if not m.name.startswith("_")
        }
    modules = [package]
    if hasattr(package, "__path__"):
        modules = [
            _module(package, m.name)
            for m in pkgutil.iter_modules(package.__path__)
            if not m.name.startswith("_")
        ]
    functions = [
        f for module in modules for f in vars(module).values() if _is_own_function(f, module)
    ]
    return {function.__name__: functools.partial(_itself, function) for function in functions}


def _module(package: ModuleType, name: str) -> ModuleType:
    return importlib.import_module(f"{package.__name__}.{name}")


def _is_own_function(value: object, module: ModuleType) -> bool:
    return (
        inspect.isfunction(value)
        and value.__module__ == module.__name__
        and not value.__name__.startswith("_")
    )


def _itself(choice: Callable[..., Any]) -> Callable[..., Any]:
    return choice


def _only_class(package: ModuleType, name: str) -> Callable[..., Any]:
    module = _module(package, name)
    classes = (
        c for c in vars(module).values() if inspect.isclass(c) and c.__module__ == module.__name__
    )
    return next(c for c in classes if not c.__name__.startswith("_"))


def _checked(section: str, choice: Callable[..., Any], given: dict[str, Any]) -> dict[str, Any]:
    """`given` with defaults filled in; TrialError for unknown or missing options and for values
    against their annotation.
    """
    parameters = {
        p.name: p for p in inspect.signature(choice).parameters.values() if _is_option(choice, p)
    }
    types = typing.get_type_hints(
        choice.__init__ if inspect.isclass(choice) else choice, include_extras=True
    )
    if section == "dataset":
        loader = importlib.import_module("rm.datasets").load
        parameters |= {
            p.name: p
            for p in inspect.signature(loader).parameters.values()
            if _is_option(loader, p)
        }
        types = typing.get_type_hints(loader, include_extras=True) | types
    if set(given) - set(parameters):
        raise TrialError(
            f"{section} has no option {sorted(set(given) - set(parameters))}; valid: "
            f"{', '.join(parameters)}"
        )
    values = {}
    for name, parameter in parameters.items():
        if name not in given and parameter.default is inspect.Parameter.empty:
            raise TrialError(f"{section} needs '{name}'")
        values[name] = given.get(name, parameter.default)
        _check(f"{section}.{name}", name, values[name], types[name])
    for condition, why in getattr(
        importlib.import_module(choice.__module__), "REQUIRES", {}
    ).items():
        if not eval(condition, {"__builtins__": {}}, values):  # our own source
            raise TrialError(f"{section} must satisfy {condition}: {why}")
    return values


def _is_option(choice: Callable[..., Any], parameter: inspect.Parameter) -> bool:
    return choice is Train or parameter.kind is inspect.Parameter.KEYWORD_ONLY


def _check(what: str, name: str, value: Any, annotation: Any) -> None:
    """A Literal's words and an Annotated condition; both stand in the signature of the choice."""
    if value is None:
        return
    if typing.get_origin(annotation) is Annotated:
        annotation, condition = typing.get_args(annotation)
        try:
            valid = bool(
                eval(condition, {"__builtins__": {"all": all, "len": len}}, {name: value})
            )  # our own source
        except TypeError:
            valid = False
        if not valid:
            raise TrialError(f"{what} must satisfy {condition}, found {value!r}")
    if typing.get_origin(annotation) is Literal and value not in typing.get_args(annotation):
        raise TrialError(
            f"{what} must be one of {', '.join(map(repr, typing.get_args(annotation)))}, found "
            f"{value!r}"
        )
