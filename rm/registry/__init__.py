"""What a trial can name, read from the source of `rm` without importing it. Standard library only.

The registry is the file system. `method: cutmix` is the class in `rm/methods/cutmix.py`,
`backbone: resnet18` the function of that name in some file of `rm/backbones/`; likewise tasks
(classes) and data sets, optimizers, schedules and probes (functions). A file or a function whose
name begins with `_` is never a choice. Options are the keyword-only parameters, with annotations
and literal defaults; a class that hands on `**options` has those of its bases too. Beside them a
file may say, as literals:

    Annotated[float, "0 < alpha <= 1"]      a condition on the value of one option
    CONSTRAINTS = {"low <= high": "why"}    conditions on several options together
    REQUIRES_FEATURES = ("stem",)           of a method: what it must find inside its backbone
    FEATURES = ("stem", "stages")           of a backbone: what is there, for the file or by name
    REQUIRES_FILES = {"folder": {...}}      of a method: option -> files in the folder it names
                                            (null: $RM_DATA_DIR/<method>) -> where to get them
    LOOKS_FOR = ("{root}/train", ...)       of a data set: what it finds in $RM_DATA_DIR, {option}
    METRICS = ("top1_error", ...)           of a task or a head: what it reports, the primary first
    USES = ("dataset", "backbone", ...)     of a task or a probe: sections that it reads
    TASK = "detection"                      of a head or a data set: the one task that it is for
    TASKS = ("classification",)             of a method: the only tasks that it is for
    TOGETHER = {"task.queue % train.batch_size == 0": "why"}     of a task or a method: conditions
                                            on the options of several sections
    WEIGHTLESS = ("drop_path_rate",)        of a backbone: options that change no weight
    METRIC = {"label": ..., "unit": ..., "better": ...}   of a probe
    KEEPS_PICTURES = True                   of a probe: it saves pictures beside its numbers

Planner and trainer both ask here, so that they accept and refuse the same: `check` for options,
`incompatibility` for a method inside a backbone. `load` imports what was named.
"""

import importlib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import rm
from rm.metrics import METRICS, Metric
from rm.registry import plugins
from rm.registry.checking import Violation as Violation
from rm.registry.checking import check_constraints, check_options, not_for_task
from rm.registry.checking import suggestion as suggestion
from rm.registry.option import holds
from rm.registry.source import Entry as Entry
from rm.registry.source import RegistryError as RegistryError
from rm.registry.source import fields_of as fields_of
from rm.registry.source import read_choices, read_shape

SOURCE = Path(__file__).resolve().parents[1]

SECTIONS: Mapping[str, str] = MappingProxyType(
    {
        "task": "tasks",
        "dataset": "datasets",
        "backbone": "backbones",
        "method": "methods",
        "head": "dense/heads",
        "optimizer": "optimizers",
        "schedule": "schedules",
        "probe": "probes",
    }
)
"""Section of a trial whose value is a choice -> the folder or file of its choices."""

SHAPES: Mapping[str, str] = MappingProxyType({"train": "Train", "init": "Init"})
"""Section of a trial that is no choice -> the class in `rm/trial.py` whose fields are its keys."""

TRIAL_SECTIONS = (
    "task", "dataset", "backbone", "method", "head", "train", "optimizer", "schedule", "probe",
    "init", "freeze",
)  # fmt: skip
"""Every section of a trial, beside its seed."""

OPTIONAL = ("task", "probe", "init", "freeze")
"""Sections that a trial may be without: it then is a classification, and is trained."""

DEFAULT_TASK = "classification"

FREEZABLE = ("backbone", "random backbone")
"""What `freeze` may name; a random backbone is one without `init`, the control of a linear
evaluation.
"""

_FREE = ("cuda_graph", "deterministic", "sheets", "winograd", "keep_best")
NOT_IDENTITY: Mapping[str, tuple[str, ...]] = MappingProxyType({"train": _FREE, "init": ("file",)})
"""Options that are no part of a trial's identity: they change no number, but for the last bits
that machines differ in too.
"""

_WRITTEN_IF_SET: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "task": ("iterations", "micro_batches"),
        "dataset": ("classes", "padding"),
        "method": ("placement", "most_blocks", "ema_start", "pseudo_labels", "keys", "left_out"),
        "probe": ("before",),
        "train": _FREE,
        "init": ("trial", "weights", "file", "sha256"),
        "backbone": ("output_stride", "start"),
        "schedule": ("warmup_steps", "warmup_factor"),
    }
)
"""Options that stand in a trial only where they are not the default: other ids stay the same."""

_IN_CLASSES = ("task", "method")
"""Sections whose choices are classes, one a file, named as the file is."""


def numerics(trial: Mapping[str, Any]) -> int:
    """`rm.NUMERICS` for the task of these values of a trial, part of its identity."""
    task = trial.get("task")
    name = task.get("name") if isinstance(task, Mapping) else DEFAULT_TASK
    return rm.NUMERICS + rm.NUMERICS_OF_TASKS.get(str(name), 0)


def entries(section: str) -> Mapping[str, Entry]:
    """Every choice of a section by name, in alphabetical order; then those of plugins."""
    own, others = _entries(SOURCE, section), plugins.entries(section)
    return {**own, **others} if others else own


def use_plugin(path: Path, *, again: bool = False) -> list[str]:
    """Offer what a file outside `rm` defines (`rm.registry.plugins`); returns the names."""
    return plugins.use(path, {s: _entries(SOURCE, s) for s in SECTIONS}, _IN_CLASSES, again=again)


@cache
def _entries(source: Path, section: str) -> Mapping[str, Entry]:
    """`source` is an argument so that another one is read anew."""
    return read_choices(source / SECTIONS[section], section, classes=section in _IN_CLASSES)


def entry(section: str, name: str) -> Entry:
    """One choice; RegistryError names what would be valid."""
    known = entries(section)
    if name not in known:
        raise RegistryError(f"unknown {section} '{name}'{suggestion(name, known)}")
    return known[name]


def load(section: str, name: str) -> Any:
    """The class or function that a choice names, imported; its module alone is."""
    chosen = entry(section, name)
    if isinstance(chosen, plugins.PluginEntry):
        return plugins.load(chosen)
    place = chosen.file.relative_to(SOURCE.parent).with_suffix("")
    return getattr(importlib.import_module(".".join(place.parts)), chosen.symbol)


def task(values: Mapping[str, Any]) -> Entry:
    """The task of a trial of these values."""
    return entry("task", values.get("task", {}).get("name", DEFAULT_TASK))


def leaves_no_backbone(values: Mapping[str, Any]) -> bool:
    """Whether what a trial of these values leaves is a head of OpenMMLab's with its backbone,
    under their names.
    """
    return "head" in task(values).uses


def metric(name: str) -> Metric:
    """The metric of that name, a task's or a probe's; that of another head of a network is called
    `top1_error.<head>`.
    """
    base, dot, head = name.partition(".")
    if base in METRICS:
        known = METRICS[base]
        return known._replace(name=name, label=f"{known.label} ({head})") if dot else known
    if name in entries("probe"):
        return entries("probe")[name].metric or Metric(name, name, "", "lower")
    raise RegistryError(f"unknown metric '{name}'{suggestion(name, metric_names())}")


def metric_names() -> list[str]:
    """What `metric` takes."""
    return [*METRICS, *entries("probe")]


def check(section: str, written: Mapping[str, Any]) -> tuple[dict[str, Any], list[Violation]]:
    """The resolved values of a section, defaults filled in and an int taken for a float where one
    is meant; and everything that is wrong with what is written.
    """
    if section in SHAPES:
        chosen = read_shape(SOURCE / "trial.py", section, SHAPES[section])
    else:
        known = entries(section)
        name = written.get("name")
        if name is None:
            message = f"{section} has no name{suggestion('', known)}"
            return {}, [Violation("choice", None, message)]
        if not isinstance(name, str) or name not in known:
            message = f"unknown {section} '{name}'{suggestion(str(name), known)}"
            return {}, [Violation("choice", "name", message)]
        chosen = known[name]
    given = {key: value for key, value in written.items() if key != "name" or not chosen.name}
    options, wrong = check_options(chosen, given)
    if not wrong:
        wrong += check_constraints(chosen, options)
    for option in _WRITTEN_IF_SET.get(section, ()):
        if option in options and options[option] == chosen.options[option].default:
            del options[option]
    return ({"name": chosen.name, **options} if chosen.name else options), wrong


def check_trial(sections: Mapping[str, Any]) -> tuple[dict[str, Any], list[Violation]]:
    """The resolved sections of a whole trial, and everything that is wrong with them."""
    values: dict[str, Any] = {}
    wrong: list[Violation] = []
    for section, written in sections.items():
        if section == "freeze":
            values[section] = written
        elif not isinstance(written, Mapping):
            message = f"{section} must be a mapping, found {written!r}"
            wrong.append(Violation("value", None, message))
        else:
            values[section], found = check(section, written)
            wrong += found or _check_init(section, values[section])
    if not wrong:
        found_together = [*check_together(values), *check_values(values)]
        wrong += [Violation("constraint", None, why) for _, why in found_together]
    return values, wrong


def _check_init(section: str, values: Mapping[str, Any]) -> list[Violation]:
    """A resolved init is of one of two forms."""
    forms = ({"trial", "weights"}, {"file", "sha256"})
    if section != "init" or set(values) - {"part"} in forms:
        return []
    message = "init has 'trial' and 'weights', or 'file' and 'sha256'"
    return [Violation("constraint", None, message)]


def check_together(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What resolved sections, each valid alone, cannot have together: (the section to blame,
    a sentence).
    """
    chosen = task(values)
    for section in chosen.uses:
        if section not in values and section not in OPTIONAL:
            yield section, f"missing section '{section}', which {chosen.title} needs"
    for section in values:
        if section not in (*chosen.uses, "task", "train", "probe"):
            uses = ", ".join(chosen.uses)
            yield section, f"{chosen.title} does not read '{section}'; it reads {uses}"
    for section in ("dataset", "head", "method"):
        if section in values:
            yield from not_for_task(section, values[section]["name"], entries(section), chosen)
    if "method" in values and "backbone" in values:
        why = incompatibility(values["method"]["name"], values["backbone"]["name"])
        if why is not None:
            yield "method", why
    init, frozen = values.get("init"), values.get("freeze")
    if frozen is not None and frozen not in FREEZABLE:
        yield "freeze", f"freeze must be {' or '.join(FREEZABLE)}, found {frozen!r}"
    elif frozen == "backbone" and init is None:
        message = "freeze needs init: frozen random weights learn nothing"
        yield "freeze", f"{message}; as a control: 'random backbone'"
    elif frozen == "random backbone" and init is not None:
        yield "freeze", "a random backbone has no init; valid with init: backbone"


def check_values(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What TOGETHER of the task and the method says against the values of resolved sections that
    go together: (the section to blame, a sentence).
    """
    chosen = [task(values)]
    if "method" in values:
        chosen.append(entry("method", values["method"]["name"]))
    if not any(one.together for one in chosen):
        return
    named = {
        section: SimpleNamespace(**_with_defaults(section, options))
        for section, options in values.items()
        if isinstance(options, Mapping)
    }
    for one in chosen:
        for condition, why in one.together.items():
            if not holds(condition, named):
                yield one.section, f"{one.title} must satisfy {condition}: {why}"


def _with_defaults(section: str, values: Mapping[str, Any]) -> Mapping[str, Any]:
    """A resolved section with the options that are written only if set."""
    left_out = set(_WRITTEN_IF_SET.get(section, ())) - set(values)
    if not left_out:
        return values
    shape = SHAPES.get(section)
    known = read_shape(SOURCE / "trial.py", section, shape) if shape else None
    options = (known or entry(section, values["name"])).options
    return {**{name: options[name].default for name in left_out & set(options)}, **values}


def incompatibility(method: str, backbone: str) -> str | None:
    """Why the method cannot act inside the backbone, and inside which it could; or None."""
    needed, backbones = entry("method", method).features, entries("backbone")
    missing = " and ".join(sorted(needed - entry("backbone", backbone).features))
    if not missing:
        return None
    valid = ", ".join(name for name, other in backbones.items() if needed <= other.features)
    return (
        f"method '{method}' needs a backbone with {missing}; {backbone} has none; valid: "
        f"{valid or 'none'}"
    )


def missing_files(method: Mapping[str, Any], data_dir: Path) -> str | None:
    """Which files of REQUIRES_FILES a resolved method lacks on this machine, and where to get
    them; None if none.
    """
    name, missing = method["name"], []
    for option, files in entry("method", name).files.items():
        folder = Path(method[option]) if method[option] else data_dir / name
        missing += [
            f"{folder / file}, from {source}"
            for file, source in files.items()
            if not (folder / file).exists()
        ]
    return f"method '{name}' needs {'; and '.join(missing)}" if missing else None
