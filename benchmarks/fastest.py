"""Eager, compiled, or whole steps as one CUDA graph: the fastest of those with equal bits.

    python -m benchmarks.fastest [--backbone resnet18] [--precision bf16] [--steps 30]
                                 [--rounds 3] [--digits] [--any-order] [--when-asked]
    python -m benchmarks.fastest --apply FOLDER

Each trains Table 3's RecursiveMix from the same start for --steps steps with torch's deterministic
algorithms; what has the eager weights to the bit is equal. Then all are timed in turn, with the
algorithms that a training uses. The last line says which one is taken: `train.cuda_graph` where it
is equal and faster, `compile` never, as it makes other trials.

--any-order times the last of --choices once more, with convolutions that may sum in any order, to
show what the deterministic ones of a training cost; --when-asked with batches that are made when
they are asked for, not on a stream beside.

--apply sets `train.cuda_graph` in every trial.json of a folder whose method takes it, and with
--any-order `train.deterministic: false`: they are no part of a trial's identity.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.step import RM, VARIANTS, alternate, our_run, step
from rm.files import write_atomically
from rm.input import ahead
from rm.trainer import Trainer
from rm.trial import TrialError, parse_trial

CHOICES = {"eager": "bf16", "compiled": "compiled", "graph": "graph"}
"""Name -> its variant in benchmarks.step."""


def weights_after(run: Trainer, steps: int) -> dict[str, Tensor]:
    """All parameters and buffers, copied."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        for _ in range(steps):
            step(run)
    finally:
        torch.use_deterministic_algorithms(False)
    return {
        name: value.cpu().clone()
        for name, value in run.task.state_dict().items()
        if isinstance(value, Tensor)
    }


def start(choice: str, args: argparse.Namespace, device: torch.device) -> Trainer:
    """Table 3's RecursiveMix, about to take its first step."""
    options: dict[str, Any] = {"batch_norm_groups": 2, **VARIANTS[CHOICES[choice]]}
    options |= {"precision": args.precision, "digits": args.digits}
    return our_run(args.backbone, args.batch, RM, device, **options)


def in_any_order(run: Trainer, steps: int) -> None:
    """Train with whatever algorithms cuDNN takes for the fastest."""
    torch.backends.cudnn.deterministic = False
    for _ in range(steps):
        step(run)
    torch.backends.cudnn.deterministic = True


def start_when_asked(choice: str, args: argparse.Namespace, device: torch.device) -> Trainer:
    """One whose batches are made on the stream of its steps."""
    beside = ahead.stream_beside
    ahead.stream_beside = lambda device: None
    try:
        return start(choice, args, device)
    finally:
        ahead.stream_beside = beside


def measure(args: argparse.Namespace, device: torch.device) -> str:
    """Print a line for each choice; returns the one to take."""
    runs: dict[str, Trainer] = {}
    equal: dict[str, bool] = {}
    wanted: dict[str, Tensor] = {}
    for name in args.choices:
        try:
            run = start(name, args, device)
            found = weights_after(run, args.steps)
        except Exception as error:  # a compiler or a driver that cannot: the others are measured
            print(f"{name}: {type(error).__name__}: {str(error).splitlines()[0]}", flush=True)
            continue
        runs[name], wanted = run, wanted or found
        equal[name] = all(torch.equal(found[key], wanted[key]) for key in wanted)
    turns = {
        name: lambda run=run: [step(run) for _ in range(args.steps)] for name, run in runs.items()
    }
    if args.any_order:
        free = start(args.choices[-1], args, device)  # a graph keeps what it was captured with
        turns["any-order"] = lambda: in_any_order(free, args.steps)
    if args.when_asked:
        late = start_when_asked(args.choices[-1], args, device)
        turns["when asked"] = lambda: [step(late) for _ in range(args.steps)]
    torch.backends.cudnn.deterministic = True  # as `rm.train.fit` has it
    taken = {name: min(values) for name, values in alternate(turns, args.rounds, device).items()}
    for name, seconds in taken.items():
        same = {True: "bit-equal to eager", False: "other bits than eager"}.get(
            equal.get(name), ""
        )
        pace = args.steps * args.batch / seconds
        print(
            f"{name:10}{1000 * seconds / args.steps:9.3f} ms a step {pace:10,.0f} images/s  {same}"
        )
    faster = taken.get("graph", float("inf")) < taken.get("eager", float("inf"))
    return "graph" if equal.get("graph") and faster else "eager"


def apply(folder: Path, any_order: bool) -> int:
    """Set `train.cuda_graph` in the trials below a folder; returns how many have it now."""
    count = 0
    for path in sorted(folder.rglob("trial.json")):
        values = json.loads(path.read_text(encoding="utf-8"))
        values["train"]["cuda_graph"] = True
        if any_order:
            values["train"]["deterministic"] = False
        try:
            parse_trial({key: value for key, value in values.items() if key != "numerics"})
        except TrialError as error:
            print(f"{path.parent.name} stays as it is: {error}")
            continue
        write_atomically(path, json.dumps(values, indent=1))
        count += 1
    return count


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--precision", choices=["bf16", "fp16", "fp32"], default="bf16")
    parser.add_argument("--steps", type=int, default=30, help="of a turn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--choices", nargs="+", choices=CHOICES, default=list(CHOICES))
    parser.add_argument("--digits", action="store_true", help="instead of CIFAR-100")
    parser.add_argument("--any-order", action="store_true", help="time these convolutions too")
    parser.add_argument("--when-asked", action="store_true", help="time such batches too")
    parser.add_argument("--apply", type=Path, metavar="FOLDER")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    if args.apply:
        print(f"train.cuda_graph is set in {apply(args.apply, args.any_order)} trials")
        return
    device = torch.device(args.device)
    images = "digits" if args.digits else "CIFAR-100"
    print(
        f"{args.backbone}, batch {args.batch}, {args.precision}, {images}, {device}, "
        f"torch {torch.__version__}"
    )
    print(f"taken: {measure(args, device)}")


if __name__ == "__main__":
    main()
