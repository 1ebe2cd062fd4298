"""`show`: the trials of a spec, or one trial, with every resolved value as YAML; or in what two
trials, or two specs, differ.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from launch import console
from launch.commands import add_filters, load_specs
from launch.commands._targets import find_run, is_spec
from launch.errors import UsageError
from launch.paths import EXPERIMENTS, runs_dir
from launch.runs.contents import Damaged, why
from launch.runs.rundir import RunDir
from launch.spec.filters import select
from launch.spec.grammar.overrides import is_setting
from launch.spec.grammar.yaml_source import dump
from launch.spec.load import Spec, SpecError, load_spec
from launch.spec.trial import flatten

HELP = "print the resolved values of trials, or in what two of them differ"
LEAST_ID = 4
"""Characters of an id that are enough to look for it in the specs."""


class Shown(NamedTuple):
    """One trial, or the trials of one cell that differ in their seed alone.

    label   how people call it
    ids     seed -> id
    """

    label: str
    ids: Mapping[int, str]
    values: Mapping[str, Any]

    def flat(self) -> dict[str, Any]:
        return dict(flatten(self.values))

    def to_json(self) -> Iterator[dict[str, Any]]:
        for seed, identity in self.ids.items():
            yield {"id": identity, "label": self.label, "seed": seed, **self.values}

    def to_yaml(self) -> str:
        (seed, identity), *others = self.ids.items()
        head = {"trials": dict(self.ids)} if others else {"id": identity, "seed": seed}
        return f"# {self.label}\n{dump({**head, **self.values})}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "targets",
        nargs="+",
        metavar="SPEC.yaml|TRIAL",
        help="a spec, or a trial by the start of its id; two of a kind: their difference",
    )
    add_filters(parser)


def run(args: argparse.Namespace) -> int:
    args.set += filter(is_setting, args.targets)
    targets = [target for target in args.targets if not is_setting(target)]
    if len(targets) not in (1, 2):
        raise UsageError("show takes one spec or trial, or two to compare")
    if len(set(map(is_spec, targets))) == 2:
        raise UsageError("show compares two trials, or two specs, and not one with the other")
    shown = [_find(target, args) for target in targets]
    if len(targets) == 1:
        found = shown[0]
        if args.json:
            trials = [trial for each in found for trial in each.to_json()]
            console.show(json.dumps({"trials": trials}, indent=1, ensure_ascii=False))
        else:
            console.show("---\n".join(each.to_yaml() for each in found).rstrip())
        return 0
    differences = list(_differences(*shown, of_specs=is_spec(targets[0])))
    if args.json:
        console.show(json.dumps({"differences": differences}, indent=1, ensure_ascii=False))
    else:
        console.show("\n".join(_lines(targets, differences)))
    return 0


def _find(target: str, args: argparse.Namespace) -> list[Shown]:
    if not is_spec(target):
        return [_trial(target)]
    args.specs = [target]
    found = []
    for spec, cell, trials in select(load_specs(args), args.where):
        plain = [_without_seed(trial.values) for trial in trials]
        label = f"{spec.title_name} · {cell.row}"
        if all(values == plain[0] for values in plain):
            found.append(Shown(label, {trial.seed: trial.id for trial in trials}, plain[0]))
        else:  # each starts from another one
            for trial, values in zip(trials, plain, strict=True):
                label_of = f"{label} · seed {trial.seed}"
                found.append(Shown(label_of, {trial.seed: trial.id}, values))
    return found


def _trial(beginning: str) -> Shown:
    """By its run directory, else by the specs of experiments/."""
    try:
        run_dir = find_run(beginning)
    except UsageError:
        return _planned(beginning)
    try:
        values = dict(RunDir(run_dir).trial)
    except (OSError, Damaged) as error:
        raise UsageError(f"{run_dir.name}: its trial.json cannot be read: {why(error)}") from None
    seed = int(values.pop("seed"))
    kept = {key: value for key, value in values.items() if key not in ("id", "numerics")}
    return Shown(f"trial {run_dir.name} · seed {seed}", {seed: run_dir.name}, kept)


def _planned(beginning: str) -> Shown:
    found: dict[str, Shown] = {}
    for spec in _all_specs() if len(beginning) >= LEAST_ID else ():
        for cell in spec.cells:
            for trial in (each for each in cell.trials if each.id.startswith(beginning)):
                label = f"{spec.title_name} · {cell.row} · seed {trial.seed}"
                shown = Shown(label, {trial.seed: trial.id}, _without_seed(trial.values))
                found.setdefault(trial.id, shown)
    if len(found) == 1:
        return next(iter(found.values()))
    if found:
        raise UsageError(f"'{beginning}' is how several trials begin: {', '.join(found)}")
    raise UsageError(
        f"no trial in {runs_dir()} or {EXPERIMENTS} begins with '{beginning}'; "
        "`plan SPEC.yaml` names them"
    )


def _all_specs() -> Iterator[Spec]:
    """Those of experiments/ that can be read, and their profiles."""
    for path in sorted(EXPERIMENTS.rglob("*.yaml")):
        try:
            spec = load_spec(path)
            yield spec
            yield from (load_spec(path, profile) for profile in spec.profiles)
        except SpecError:
            continue


def _without_seed(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != "seed"}


def _differences(
    one: Sequence[Shown], other: Sequence[Shown], *, of_specs: bool
) -> Iterator[dict[str, Any]]:
    """Of each trial, or each row that both specs have, the keys with both values; of a row that
    one of them lacks, which one has it.
    """
    if not of_specs:
        yield {"row": None, "keys": _keys(one[0], other[0])}
        return
    left, right = (
        {each.label.partition(" · ")[2]: each for each in side} for side in (one, other)
    )
    for row in dict.fromkeys((*left, *right)):
        if row not in left or row not in right:
            yield {"row": row, "only_in": 0 if row in left else 1}
        elif keys := _keys(left[row], right[row]):
            yield {"row": row, "keys": keys}


def _row(shown: Shown) -> str:
    return shown.label.partition(" · ")[2]


def _keys(one: Shown, other: Shown) -> dict[str, list[Any]]:
    left, right = one.flat(), other.flat()
    left["seed"], right["seed"] = (", ".join(map(str, each.ids)) for each in (one, other))
    return {
        key: [left.get(key), right.get(key)]
        for key in dict.fromkeys((*left, *right))
        if left.get(key) != right.get(key)
    }


def _lines(targets: Sequence[str], differences: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if not any(each.get("keys") or "only_in" in each for each in differences):
        yield "no difference"
        return
    for each in differences:
        if "only_in" in each:
            yield f"{each['row']}: only in {targets[each['only_in']]}"
            continue
        if each["row"]:
            yield f"{each['row']}:"
        table = [("", *targets), *((k, _text(a), _text(b)) for k, (a, b) in each["keys"].items())]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        for line in table:
            yield "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip()


def _text(value: Any) -> str:
    return "–" if value is None else str(value)
