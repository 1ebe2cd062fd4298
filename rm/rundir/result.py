"""What a finished training leaves: its weights and the content of result.json."""

import json
import sys
from pathlib import Path
from typing import Any

from rm.files import UNGUARDED, Permit
from rm.metrics import Metric, select
from rm.rundir import weights
from rm.trainer import Trainer


def read_result(run_dir: Path) -> dict[str, Any] | None:
    """result.json; None where there is none, or where it is damaged: what is in it follows from
    the checkpoint, so that the run writes it again.
    """
    path = run_dir / "result.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        print(f"{path} is damaged, and written again: {error}", file=sys.stderr)
        return None
    return found if isinstance(found, dict) and "metrics" in found else None


def save_weights(trainer: Trainer, run_dir: Path, permit: Permit = UNGUARDED) -> dict[str, str]:
    """Write weights.pt and, if it is kept, weights.best.pt: file -> sha256."""
    written = {weights.FILES["last"]: trainer.task.deployed()}
    if trainer.best_weights is not None:
        written[weights.FILES["best"]] = trainer.best_weights
    return {name: weights.save(run_dir / name, state, permit) for name, state in written.items()}


def result_of(trainer: Trainer, written: dict[str, str]) -> dict[str, Any]:
    """What stands in result.json; `written`: the files of weights and their sha256."""
    epochs = trainer.epochs
    result = {
        "id": trainer.trial.id,
        "seed": trainer.trial.seed,
        "metrics": select(epochs, _reported(trainer), trainer.options.epochs),
        "epochs": trainer.options.epochs,
        "train_seconds": sum(epoch["epoch_seconds"] for epoch in epochs),
        "parameters": sum(p.numel() for p in trainer.task.parameters()),
        **trainer.task.facts(),
        "weights": written,
    }
    if trainer.init_sha256 is not None:
        result["init"] = {"sha256": trainer.init_sha256}
    return result


def _reported(trainer: Trainer) -> list[Metric]:
    """The task's metrics, and those of the network's further heads, `<metric>.<head>`."""
    metrics = list(trainer.task.metrics())
    for key in trainer.epochs[-1]:
        name = key.removeprefix("test_")
        for metric in trainer.task.metrics():
            if key.startswith("test_") and name.startswith(f"{metric.name}."):
                metrics.append(metric._replace(name=name))
    return metrics
