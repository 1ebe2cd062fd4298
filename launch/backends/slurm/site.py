"""What a SLURM site wants to be asked for: launch/site.yaml and `--slurm key=value`, read as
strictly as a spec.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from launch.paths import ROOT
from launch.spec.grammar.yaml_source import Diagnostic, SpecError, YamlPath, read
from rm.registry import suggestion

DEFAULT_FILE = ROOT / "launch" / "site.yaml"

_TIME = re.compile(
    r"(?:(?P<days>\d+)-)?(?P<hours>\d{1,2}):(?P<minutes>[0-5]\d):(?P<seconds>[0-5]\d)"
)
_OURS = {
    "array": "max_parallel",
    "cpus-per-task": "cpus_per_gpu",
    "gpus": "gpus_per_trial",
    "gpus-per-node": "gpus_per_trial",
    "gpus-per-task": "gpus_per_trial",
    "gres": "gpus_per_trial",
    "ntasks": "gpus_per_trial",
    "ntasks-per-node": "gpus_per_trial",
    "clusters": None,
    "nodes": None,
    "error": None,
    "job-name": None,
    "open-mode": None,
    "output": None,
    "requeue": None,
    "no-requeue": None,
    "signal": None,
}
"""sbatch options that the launcher sets itself -> the setting that stands for each, if one
does.
"""


class SiteError(SpecError):
    """All mistakes of the site file, and of `--slurm`."""

    def __init__(self, path: Path, diagnostics: list[Diagnostic], overrides: list[str]) -> None:
        super().__init__(path, diagnostics)
        self.args = ("\n".join([*filter(None, [str(self)]), *overrides]),)


def _text(value: Any) -> Any:
    """Accounts and sizes may look like numbers."""
    return str(value) if type(value) is int else value


def _time(text: str) -> str:
    if not _TIME.fullmatch(text):
        raise ValueError('must be "HH:MM:SS" or "D-HH:MM:SS"')
    return text


def _mem(text: str) -> str:
    if not re.fullmatch(r"\d+[KMGT]?", text):
        raise ValueError("must be a size such as 32G")
    return text


def _free(name: str) -> str:
    own = name.lstrip("-").replace("_", "-")
    setting = own if own in Site.model_fields else _OURS.get(own)
    if setting:
        raise ValueError(f"'{name}' is set by the setting {setting}")
    if own in _OURS:
        raise ValueError(f"'{name}' is set by the launcher, which depends on it")
    return name


_Text = Annotated[str, BeforeValidator(_text)]


class Site(BaseModel):
    """Resources and options of each job. What is None is left to the cluster's defaults."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    partition: _Text | None = None
    account: _Text | None = None
    qos: _Text | None = None
    constraint: _Text | None = None
    gpus_per_trial: Annotated[int, Field(ge=0)] = 1
    """Of a trial whose spec does not say `resources`; 0: there are none, and all train on CPU
    cores.
    """
    cpus_per_gpu: Annotated[int, Field(ge=1)] = 8
    """Of a trial without a GPU: all its CPU cores."""
    mem: Annotated[_Text, AfterValidator(_mem)] | None = None
    """Of a node, such as 32G."""
    time: Annotated[_Text, AfterValidator(_time)] | None = None
    """A job's limit. A trial that needs longer is checkpointed, requeued and goes on."""
    max_parallel: Annotated[int, Field(ge=1)] | None = None
    """Tasks of an array that run at a time."""
    trials_per_job: Annotated[int, Field(ge=1)] = 1
    setup: list[str] = []
    """Shell lines before Python starts, such as `module load cuda`."""
    sbatch: dict[Annotated[str, AfterValidator(_free)], str | int | bool] = {}
    """Further options of sbatch, without their dashes: {exclude: node7, exclusive: true}."""

    @property
    def seconds(self) -> int | None:
        """`time` in seconds."""
        found = _TIME.fullmatch(self.time) if self.time else None
        if found is None:
            return None
        days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
        return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def load_site(path: Path | None, overrides: Sequence[str] = ()) -> Site:
    """Read a site file (None: launch/site.yaml where there is one) with `key=value` overrides on
    top.

    Raises SiteError with all mistakes, `file:line:column: ...` in the file and `--slurm key=value:
    ...` in the overrides.
    """
    file = path or (DEFAULT_FILE if DEFAULT_FILE.exists() else None)
    diagnostics: list[Diagnostic] = []
    written = _from_file(file, diagnostics) if file else {}
    complaints: list[str] = []
    overridden = _from_overrides(overrides, complaints)
    if not diagnostics and not complaints:
        sbatch = {**written.get("sbatch", {}), **overridden.get("sbatch", {})}
        return Site.model_validate({**written, **overridden, "sbatch": sbatch})
    raise SiteError(file or DEFAULT_FILE, diagnostics, complaints)


def _from_file(file: Path, diagnostics: list[Diagnostic]) -> dict[str, Any]:
    try:
        source = read(file)
    except SpecError as error:
        diagnostics.extend(error.diagnostics)
        return {}
    data = source.data if source.data is not None else {}
    if not isinstance(data, dict):
        source.error((), f"a site file is a mapping of settings; found {data!r}")
        data = {}
    for detail in _mistakes(data):
        about_key = detail["type"] == "extra_forbidden" or "[key]" in detail["loc"]
        source.error(_place(detail), _complaint(detail), key=about_key)
    diagnostics.extend(source.diagnostics)
    return data


def _place(detail: ErrorDetails) -> YamlPath:
    """Where pydantic sees a mistake, without its names for the members of a union."""
    return tuple(part for part in detail["loc"] if part not in ("str", "int", "bool", "[key]"))


def _complaint(detail: ErrorDetails) -> str:
    at = _place(detail)
    if detail["type"] == "extra_forbidden":
        return f"unknown setting '{at[-1]}'{suggestion(str(at[-1]), Site.model_fields)}"
    found = "" if "[key]" in detail["loc"] else f", found {detail['input']!r}"
    return f"{'.'.join(str(part) for part in at)}: {_reason(detail)}{found}"


def _reason(detail: ErrorDetails) -> str:
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


def _mistakes(data: Mapping[str, Any]) -> list[ErrorDetails]:
    """What is wrong with single values; what they say together is looked at when all are there."""
    try:
        Site.model_validate(data)
    except ValidationError as error:
        by_place = {
            _place(detail): detail for detail in reversed(error.errors())
        }  # a union complains for each member
        return [detail for place, detail in reversed(by_place.items()) if place]
    return []


def _from_overrides(overrides: Sequence[str], complaints: list[str]) -> dict[str, Any]:
    """`mem=32G`, `gpus_per_trial=2`, `setup=module load cuda` (again for each line),
    `sbatch.exclude=node7`.
    """
    overridden: dict[str, Any] = {}
    for text in overrides:
        key, equals, value = (part.strip() for part in text.partition("="))
        name, _, option = key.partition(".")
        if not equals or (option and name != "sbatch") or (key == "sbatch"):
            complaints.append(
                f"--slurm {text}: expected key=value, such as time=04:00:00 or "
                "sbatch.exclude=node7"
            )
            continue
        single: dict[str, Any]
        if option:
            single = {"sbatch": {option: _plain(value)}}
        elif name == "setup":
            single = {"setup": [value]}
        else:
            single = {name: _plain(value) if _is_number(name) else value}
        mistakes = _mistakes(single)
        complaints.extend(f"--slurm {text}: {_complaint(detail)}" for detail in mistakes)
        if mistakes:
            continue
        if name == "sbatch":
            overridden[name] = {**overridden.get(name, {}), **single[name]}
        elif name == "setup":
            overridden[name] = [*overridden.get(name, []), *single[name]]
        else:
            overridden |= single
    return overridden


def _is_number(name: str) -> bool:
    field = Site.model_fields.get(name)
    return field is not None and "int" in str(field.annotation) and name != "sbatch"


def _plain(text: str) -> str | int | bool:
    """A number, true or false where the text is one."""
    if re.fullmatch(r"-?\d+", text):
        return int(text)
    return {"true": True, "false": False}.get(text.lower(), text)
