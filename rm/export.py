"""Deployed weights of a run: what a later trial or another library loads, without what a method
added for training.

python -m rm.export RUN_DIR WEIGHTS.pt [--best]     # a state dict; loads strictly into timm or
                                                    # torchvision where the network is theirs
"""

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor

from rm.rundir import checkpoint, weights
from rm.rundir.checkpoint import CheckpointError
from rm.tasks import pick_deployed


def deployed(run_dir: Path, *, best: bool = False) -> dict[str, Tensor]:
    """The weights that a run left, or those of its newest checkpoint, on the CPU; CheckpointError
    where there are none.

    best   of the best epoch, where `train.keep_best` has them kept
    """
    path = run_dir / weights.FILES["best" if best else "last"]
    if path.is_file():
        state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
        return state
    saved = checkpoint.load(run_dir, torch.device("cpu"))
    if saved is None:
        raise CheckpointError(f"{run_dir} holds no whole checkpoint; run the trial first")
    if not best:
        return pick_deployed(saved["task"], saved["deployed"])
    if saved["best_weights"] is None:
        raise CheckpointError(
            f"{run_dir} keeps no weights of its best epoch; train with `keep_best: true`"
        )
    kept: dict[str, Tensor] = saved["best_weights"]
    return kept


def main(arguments: list[str] | None = None) -> int:
    """The command `python -m rm.export`; exit status 2 for a run that cannot be exported."""
    parser = argparse.ArgumentParser(
        prog="python -m rm.export", description="Write the deployed weights of a run."
    )
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    parser.add_argument("weights", type=Path, metavar="WEIGHTS.pt")
    parser.add_argument("--best", action="store_true", help="those of the best epoch")
    args = parser.parse_args(arguments)
    try:
        state = deployed(args.run_dir, best=args.best)
    except CheckpointError as error:
        print(error, file=sys.stderr)
        return 2
    weights.save(args.weights, state)
    numbers = sum(value.numel() for value in state.values())
    print(f"{args.weights}: {numbers:,} numbers in {len(state)} tensors")
    return 0


if __name__ == "__main__":
    sys.exit(main())
