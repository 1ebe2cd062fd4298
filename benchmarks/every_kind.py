r"""Leaves of an exported folder one trial of each kind, for a device that has little time: each
task, method, network, head, probe, precision and schedule once, each with the smallest network it
comes with, and what these start from.

    python launch/run.py export experiments/*.yaml experiments/amix/*.yaml --profile smoke \
        --to FOLDER
    python -m benchmarks.every_kind FOLDER
    cd FOLDER && python -m launch.backends.local . --deadline 3 --trials-per-gpu 12
"""

import argparse
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Values = dict[str, Any]
SMALL = ("resnet8", "resnet18", "imagenet_resnet18", "imagenet_resnet50")


def kinds(trial: Values) -> Iterator[tuple[Any, ...]]:
    """What a trial stands for."""
    name = {section: value.get("name") for section, value in trial.items() if _is_choice(value)}
    network = name["backbone"]
    if "head" in name:
        yield "head", name["head"], network, json.dumps(trial.get("task"))
    elif "probe" in name:
        yield "probe", name["probe"], trial["probe"].get("of"), name.get("method")
    else:
        train, freeze = trial["train"], json.dumps(trial.get("freeze"))
        yield "method", name.get("task"), name.get("method"), train["precision"], freeze
        yield "train", train.get("cuda_graph"), train.get("keep_best")
        yield "backbone", network
        yield "optimizer", name.get("optimizer"), name.get("schedule")
        words = {k: v for k, v in trial.get("method", {}).items() if isinstance(v, str | bool)}
        yield "options", json.dumps(trial.get("task")), json.dumps(words, sort_keys=True)


def _is_choice(value: Any) -> bool:
    return isinstance(value, dict) and "name" in value


def chosen(trials: dict[str, Values]) -> set[str]:
    """Ids of one trial of each kind, and of their parents."""

    def size(identity: str) -> tuple[int, str]:
        network = trials[identity]["backbone"]["name"]
        return SMALL.index(network) if network in SMALL else len(SMALL), identity

    keep: set[str] = set()
    seen: set[tuple[Any, ...]] = set()
    for identity in sorted(trials, key=size):
        own = set(kinds(trials[identity]))
        if not own <= seen:
            keep.add(identity)
            seen |= own
    left = list(keep)
    while left:
        parent = trials[left.pop()].get("init", {}).get("trial")
        if parent in trials and parent not in keep:
            keep.add(parent)
            left.append(parent)
    return keep


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="from `run.py export --to`")
    folder: Path = parser.parse_args().folder
    trials = {
        path.parent.name: json.loads(path.read_text(encoding="utf-8"))
        for path in folder.glob("runs/*/trial.json")
    }
    if not trials or not (folder / "manifest.json").is_file():
        parser.error(f"{folder} is no folder that `run.py export` wrote")
    keep = chosen(trials)
    for identity in trials.keys() - keep:
        shutil.rmtree(folder / "runs" / identity)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    manifest["trials"] = [trial for trial in manifest["trials"] if trial["id"] in keep]
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    print(f"{len(keep)} of {len(trials)} trials are left")


if __name__ == "__main__":
    main()
