"""Run directories as the worker leaves them, made by the hundred, and what a tracking store must
hold of them.
"""

import json
import os
import random
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

METRICS = ("lr", "train_loss", "train_top1_error", "test_loss", "test_top1_error", "epoch_seconds")
FINALS = ("best_top1_error", "last_top1_error", "median_last_10_top1_error", "best_epoch")
STATUS = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}


class FakeRun:
    """One run directory: its files are real, its training is drawn."""

    def __init__(self, runs: Path, number: int, begun: float = 1_795_000_000.0) -> None:
        self.draw = random.Random(number)
        self.trial_id = f"{number:012x}"
        self.folder = runs / self.trial_id
        self.clock = begun + number
        self.epoch = 0
        self.state = "interrupted"
        self.folder.mkdir(parents=True)
        method = {"name": "recursive_mix", "alpha": 0.5, "omega": 0.1}
        train = {
            "epochs": 200,
            "batch_size": 128,
            "precision": "bf16",
            "compile": False,
            "clip_norm": 0.0,
        }
        optimizer = {
            "name": "sgd",
            "lr": 0.1,
            "momentum": 0.9,
            "nesterov": False,
            "weight_decay": 5e-4,
        }
        schedule = {"name": "step", "milestones": [100, 150], "warmup_epochs": 5}
        trial = {
            "id": self.trial_id,
            "numerics": 1,
            "dataset": {"name": "cifar100"},
            "backbone": {"name": "resnet18"},
        }
        trial |= {
            "method": method,
            "train": train,
            "optimizer": optimizer,
            "schedule": schedule,
            "seed": number,
        }
        self.write("trial.json", json.dumps(trial))
        attempt = {
            "host": "node-7",
            "device": "cpu",
            "git_commit": "4f1c2ab9d07e55aa",
            "git_diff": "",
        }
        self.write("provenance.json", json.dumps([attempt]))
        self.use("table3", "ResNet-18 · + RM (ours)", number)
        self.event("started", epochs=200)

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text, encoding="utf-8")

    def use(self, spec: str, row: str, seed: int, profile: str | None = None) -> None:
        line = {
            "spec": spec,
            "profile": profile,
            "row": row,
            "label": f"{spec} · {row} · seed {seed}",
        }
        with (self.folder / "uses.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def event(self, event: str, **fields: Any) -> None:
        self.clock = round(self.clock + 1.003, 3)
        with (self.folder / "journal.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"event": event, "time": self.clock, **fields}) + "\n")

    def train(self, epochs: int) -> None:
        for _ in range(epochs):
            self.epoch += 1
            self.event(
                "epoch", epoch=self.epoch, **{key: self.draw.uniform(0, 100) for key in METRICS}
            )
        self.state = "interrupted"

    def resume(self, again: int) -> None:
        """Killed after its last checkpoint: the last epochs are journalled a second time, with
        other times.
        """
        first = max(1, self.epoch - again + 1)
        self.event("resumed", epoch=first, step=0)
        for epoch in range(first, self.epoch + 1):
            self.event("epoch", epoch=epoch, **{key: self.draw.uniform(0, 100) for key in METRICS})
        self.state = "interrupted"

    def fail(self) -> None:
        self.event("failed", error="Diverged: the loss is not finite", traceback="...")
        self.state = "failed"

    def finish(self) -> None:
        metrics = {key: self.draw.uniform(0, 100) for key in FINALS}
        result = {"metrics": metrics, "train_seconds": 12.5, "parameters": 11_220_132}
        self.write("result.json.tmp", json.dumps(result))
        (self.folder / "result.json.tmp").replace(self.folder / "result.json")
        self.event("finished", **metrics)
        self.state = "finished"

    def points(self) -> set[tuple[str, int, float]]:
        """(metric, step, value) of every point the store must hold, each once: of each epoch its
        last account.
        """
        wanted: dict[tuple[str, int], float] = {}
        for line in (self.folder / "journal.jsonl").read_text(encoding="utf-8").splitlines():
            event = json.loads(line)
            if event["event"] == "epoch":
                for key in (*METRICS, "epoch"):
                    wanted[key, event["epoch"]] = float(event[key])
        if self.state == "finished":
            result = json.loads((self.folder / "result.json").read_text(encoding="utf-8"))
            finals = {**result["metrics"], "train_seconds": 12.5, "parameters": 11_220_132}
            wanted |= {(key, self.epoch): float(value) for key, value in finals.items()}
        return {(key, step, value) for (key, step), value in wanted.items()}


def assert_store_is_true(rows: "Rows", runs: list[FakeRun]) -> None:
    """Every point once, no run twice, every status, param, tag and name as the run directories
    say.
    """
    assert Counter(rows.trials.values()) == Counter(run.trial_id for run in runs), (
        "one run a trial"
    )
    by_trial = {trial: run_id for run_id, trial in rows.trials.items()}
    for run in runs:
        run_id = by_trial[run.trial_id]
        stored = rows.points.get(run_id, [])
        assert len(stored) == len({(key, step) for key, step, _ in stored}), (
            f"{run.trial_id}: a point twice"
        )
        assert set(stored) == run.points(), run.trial_id
        status, name, _ = rows.info[run_id]
        assert status == STATUS[run.state], run.trial_id
        assert name.startswith("table3 · ResNet-18 · + RM (ours) · seed ")
        assert rows.params[run_id] == 19
        place = Path(rows.info[run_id][2].removeprefix("file://"))
        if place.is_absolute():
            assert {file.name for file in place.iterdir()} >= {
                "trial.json",
                "provenance.json",
                "curve.csv",
            }


class Rows:
    """What stands in the tables of a store, read without MLflow."""

    def __init__(self, execute: Any) -> None:
        active = (
            "select run_uuid, status, name, artifact_uri from runs where lifecycle_stage = "
            "'active'"
        )
        self.info = {run: tuple(rest) for run, *rest in execute(active)}
        tags = execute("select run_uuid, value from tags where key = 'trial_id'")
        self.trials = {run: value for run, value in tags if run in self.info}
        self.params = Counter(run for (run,) in execute("select run_uuid from params"))
        self.points: dict[str, list[tuple[str, int, float]]] = {}
        for run, key, step, value in execute("select run_uuid, key, step, value from metrics"):
            self.points.setdefault(run, []).append((key, step, value))


def sqlite_rows(file: Path) -> Rows:
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as database:
        return Rows(lambda query: database.execute(query).fetchall())


def grow(runs: list[FakeRun], folder: Path, draw: random.Random, most: int) -> None:
    """What a minute of training might bring: epochs, ends, resumptions, new runs."""
    if len(runs) < most and draw.random() < 0.5:
        runs.append(FakeRun(folder, len(runs)))
    for run in draw.sample(runs, min(4, len(runs))):
        if run.state == "finished":
            continue
        choice = draw.random()
        if choice < 0.70:
            run.train(draw.choice((1, 5, 60, 200)))
        elif choice < 0.80 and run.epoch:
            run.resume(draw.randrange(1, 4))
        elif choice < 0.88:
            run.fail()
        elif run.epoch:
            run.finish()


def environment(results: Path, **further: str) -> dict[str, str]:
    """Of commands over these results."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    return {**kept, "RM_RESULTS_DIR": str(results), "MLFLOW_DISABLE_TELEMETRY": "true", **further}
