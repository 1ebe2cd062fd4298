"""When a training's numbers stop being numbers: it fails, and says where, before it is saved."""

import math
from pathlib import Path
from typing import Any

from rm.trainer import Trainer


class Diverged(RuntimeError):
    """The loss, or what was measured of the network, stopped being a finite number."""


def check_finite(trainer: Trainer, run_dir: Path) -> None:
    """Raise Diverged, naming step, learning rate and the last good checkpoint, once any process's
    loss was not finite.
    """
    bad = trainer.group.largest(int(trainer.first_nonfinite_step))
    if bad < 0:
        return
    raise Diverged(
        f"the loss is not finite at step {bad} of epoch {trainer.epoch} (lr {trainer.lr:g}); last "
        f"good checkpoint: {_last_good(run_dir)}"
    )


def check_metrics(trainer: Trainer, run_dir: Path, metrics: dict[str, Any]) -> None:
    """Raise Diverged where an epoch's numbers are not finite: the last step of a training is seen
    by its evaluation alone.
    """
    judged = ("test_", "train_loss")
    bad = [
        f"{name} is {value}"
        for name, value in metrics.items()
        if name.startswith(judged) and not math.isfinite(value)
    ]
    if bad:
        raise Diverged(
            f"{', '.join(bad)} after epoch {metrics['epoch']} (lr {metrics['lr']:g}); last good "
            f"checkpoint: {_last_good(run_dir)}"
        )


def _last_good(run_dir: Path) -> Path | str:
    held = [name for name in ("checkpoint.pt", "checkpoint.prev.pt") if (run_dir / name).exists()]
    return run_dir / held[0] if held else "none yet"
