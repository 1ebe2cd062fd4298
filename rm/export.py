"""Deployed weights of a run: the backbone alone, without RecursiveMix's second head.

python -m rm.export RUN_DIR WEIGHTS.pt        a state dict; loads strictly into timm or torchvision
where the network is theirs
"""

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor

from rm.backbones import Backbone
from rm.datasets import DataError
from rm.methods._consistency import ConsistencyNetwork
from rm.rundir import checkpoint
from rm.rundir.checkpoint import CheckpointError
from rm.trainer import Run
from rm.trial import TrialError, load_trial


def exported(run_dir: Path) -> dict[str, Tensor]:
    """The weights of a run directory's newest checkpoint, on the CPU, contiguous; CheckpointError
    where there is none.
    """
    run = Run(load_trial(run_dir / "trial.json"), torch.device("cpu"))
    saved = checkpoint.load(run_dir, run.device)
    if saved is None:
        raise CheckpointError(f"{run_dir} holds no whole checkpoint; run the trial first")
    run.model.load_state_dict(saved["model"])
    backbone = run.model.backbone if isinstance(run.model, ConsistencyNetwork) else run.model
    if not isinstance(backbone, Backbone):
        raise TypeError(
            f"{type(run.method).__name__} trains a {type(backbone).__name__}, which is no backbone"
        )
    return {name: value.contiguous() for name, value in backbone.plain_state_dict().items()}


def main(arguments: list[str] | None = None) -> int:
    """The command `python -m rm.export`; exit status 2 for a run that cannot be exported."""
    parser = argparse.ArgumentParser(
        prog="python -m rm.export", description="Write the deployed weights of a run."
    )
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    parser.add_argument("weights", type=Path, metavar="WEIGHTS.pt")
    given = parser.parse_args(arguments)
    try:
        weights = exported(given.run_dir)
    except (TrialError, CheckpointError, DataError) as error:
        print(error, file=sys.stderr)
        return 2
    torch.save(weights, given.weights)
    print(
        f"{given.weights}: {sum(value.numel() for value in weights.values()):,} numbers in "
        f"{len(weights)} tensors"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
