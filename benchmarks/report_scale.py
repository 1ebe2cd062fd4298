"""How long the report takes over many records, the first time and again, and how large its page
is.

    python -m benchmarks.report_scale [--runs 10000] [--epochs 100] [--folder DIR]

The specs are real ones in a folder of their own, 500 trials each; the store is a real sqlite store
of MLflow. One run is written by MLflow's client and its rows are copied for the others, with other
values, as writing takes longer than reading.
"""

import argparse
import json
import os
import random
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

from launch.spec.load import Spec, load_spec
from launch.tracking.client import analyze_tables

ROOT = Path(__file__).resolve().parents[1]
SEEDS, PER_SPEC = 10, 500
SPEC = """# Top-1 error (%), invented for a measurement.   500 trials.
title: "Measurement {number}: learning rate {lr}"
paper: {{key: yang2022recursivemix, table: "{number}"}}
seeds: [{seeds}]
trial:
  dataset: cifar100
  train: {{epochs: 200, batch_size: 128}}
  optimizer: {{name: sgd, lr: {lr}, momentum: 0.9, weight_decay: 5.0e-4}}
  schedule: {{name: cosine, warmup_epochs: 5}}
  method: {{name: recursive_mix, omega: 0.1}}
axes:
  backbone:
    ResNet-18: resnet18
    ResNet-34: resnet34
    DenseNet-121: densenet121
    DenseNet-161: densenet161
    PyramidNet-164: pyramidnet164_270
  method.alpha: [0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
published:
  ResNet-18: [{numbers}]
  ResNet-34: [{numbers}]
  DenseNet-121: [{numbers}]
  DenseNet-161: [{numbers}]
  PyramidNet-164: [{numbers}]
claims:
  - "0.5 < 0.1"
  - "0.5 < 0.9"
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="Time analysis/report.py over many records.")
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=100, help="points of a learning curve")
    parser.add_argument(
        "--folder", type=Path, help="kept, and used again; default a temporary one"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        measure(args.runs, args.epochs, args.folder or Path(temporary))


def measure(runs: int, epochs: int, folder: Path) -> None:
    """Print one JSON line: seconds (clock, processor) of the first report, of the next, of one
    after a change; the page in MB.
    """
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    specs = write_specs(folder, -(-runs // PER_SPEC))
    store = folder / "results" / "mlflow.db"
    if not store.exists():
        write_store(store, [load_spec(spec) for spec in specs], runs, epochs)
    for cached in (folder / "results" / "report").rglob("*"):
        if cached.is_file():
            cached.unlink()
    seconds = {
        "first": report(folder, specs),
        "again": min(report(folder, specs) for _ in range(3)),
    }
    touch(store)
    seconds["after a run has ended"] = report(folder, specs)
    page = folder / "results" / "report" / "index.html"
    load = os.getloadavg()[0]
    print(
        json.dumps(
            {
                "runs": runs,
                "seconds": seconds,
                "page_mb": page.stat().st_size / 1e6,
                "load": round(load, 1),
            }
        )
    )


def report(folder: Path, specs: list[Path]) -> tuple[float, float]:
    """Seconds of the whole command on the clock, and the processor's, which no other load
    lengthens.
    """
    environment = {**os.environ, "RM_RESULTS_DIR": str(folder / "results")}
    environment.pop("MLFLOW_TRACKING_URI", None)
    command = [sys.executable, str(ROOT / "analysis" / "report.py"), *map(str, specs)]
    begun, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return round(time.perf_counter() - begun, 2), round(spent, 2)


def write_specs(folder: Path, count: int) -> list[Path]:
    paths = []
    for number in range(1, count + 1):
        numbers = ", ".join(f"{20 + i / 5:.2f}" for i in range(10))
        seeds = ", ".join(map(str, range(SEEDS)))
        text = SPEC.format(number=number, lr=number / 100, seeds=seeds, numbers=numbers)
        paths.append(folder / f"measurement{number:02}.yaml")
        paths[-1].write_text(text, encoding="utf-8")
    return paths


def write_store(path: Path, specs: list[Spec], runs: int, epochs: int) -> None:
    """A store of MLflow with one finished run for each of the first `runs` trials."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    from mlflow import MlflowClient
    from mlflow.entities import Param, RunTag

    path.parent.mkdir(parents=True, exist_ok=True)
    client = MlflowClient(f"sqlite:///{path}")
    experiment = client.create_experiment(
        "recursivemix", artifact_location=(path.parent / "artifacts").as_uri()
    )
    trials = [
        (spec, cell, trial) for spec in specs for cell in spec.cells for trial in cell.trials
    ][:runs]
    model = client.create_run(experiment, run_name="model").info.run_id
    params = [Param(key, str(value)) for key, value in trials[0][2].flat().items()]
    client.log_batch(model, params=params, tags=[RunTag("trial_id", "model")])
    client.set_terminated(model)
    with sqlite3.connect(path) as database:
        columns = [row[1] for row in database.execute("pragma table_info(runs)")]
        (row,) = database.execute("select * from runs where run_uuid = ?", (model,)).fetchall()
        values = dict(zip(columns, row, strict=True))
        for number, (spec, cell, trial) in enumerate(trials):
            run = uuid.UUID(int=random.Random(trial.id).getrandbits(128)).hex
            start = 1_760_000_000_000 + number * 1000
            tags = {
                "trial_id": trial.id,
                "seed": trial.seed,
                "journal": start / 1000,
                "host": f"node-{number % 8}",
            }
            tags |= {
                "device": "NVIDIA H200",
                "git_commit": "4f1c2ab9d07e",
                "mirrored_epoch": epochs,
            }
            tags |= {
                f"spec.{spec.name}": " · ".join(cell.labels),
                "run_dir": str(path.parent / "runs" / trial.id),
            }
            new = values | {
                "run_uuid": run,
                "name": f"{spec.name} · {trial.id}",
                "start_time": start,
            }
            new |= {"end_time": start + 1_800_000, "status": "FINISHED"}
            _insert(database, "runs", [tuple(new.values())])
            _insert(database, "tags", [(key, str(value), run) for key, value in tags.items()])
            _insert(
                database, "params", [(key, str(value), run) for key, value in trial.flat().items()]
            )
            _insert_points(database, run, cell.published or 20.0, epochs, start)
    analyze_tables(path)  # as the mirror does


def _insert_points(
    database: sqlite3.Connection, run: str, published: float, epochs: int, start: int
) -> None:
    draw = random.Random(run)
    level = published + draw.gauss(0.0, 0.2)
    curve = [level + 0.3 + 60 / epoch + draw.gauss(0.0, 0.2) for epoch in range(1, epochs + 1)]
    finals = {
        "best_top1_error": min(curve),
        "last_top1_error": curve[-1],
        "median_last_10_top1_error": level + 0.3,
    }
    finals |= {"best_epoch": epochs, "train_seconds": 1800.0, "parameters": 11e6}
    points = [
        ("test_top1_error", value, start + i, run, i + 1, 0) for i, value in enumerate(curve)
    ]
    ends = [(key, value, start, run, epochs, 0) for key, value in finals.items()]
    _insert(database, "metrics", [*points, *ends])
    latest = [
        (key, value, when, step, nan, run)
        for key, value, when, run, step, nan in [points[-1], *ends]
    ]
    _insert(database, "latest_metrics", latest)


def _insert(database: sqlite3.Connection, table: str, rows: list[tuple[object, ...]]) -> None:
    marks = ", ".join("?" * len(rows[0]))
    database.executemany(f"insert into {table} values ({marks})", rows)


def touch(store: Path) -> None:
    """One more run, of a trial that is there already: what a report finds new after an hour."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{store}")
    experiment = client.get_experiment_by_name("recursivemix")
    (run,) = client.search_runs([experiment.experiment_id], max_results=1)
    again = client.create_run(
        experiment.experiment_id, tags={"trial_id": run.data.tags["trial_id"], "seed": "0"}
    )
    client.log_metric(again.info.run_id, "best_top1_error", 20.0)
    client.set_terminated(again.info.run_id)


if __name__ == "__main__":
    main()
