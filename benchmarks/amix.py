"""What the AMix paper's methods cost: a training step against the plain one, and what making the
mixed images of a batch costs alone.

    python -m benchmarks.amix [--backbone resnet18] [--batch 128] [--size 32] [--rounds 5]

The methods alternate in one process, on digits of that size; medians are printed, and the ratio of
each to the plain step of its round; on a CPU of the processor's time. Counted in arithmetic,
AutoMix and AMix are 3 plain steps, Co-Mixup 7/3 and PuzzleMix 2. "Generator" is `mix` on a batch
that is there already, forward and backward passes for saliency included; it waits for the device
in PuzzleMix (its cuts) and in Co-Mixup (its labels), both on the host, and nowhere else.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from rm.distributed import default_device
from rm.schedules import StepContext
from rm.trainer import Trainer
from rm.trial import parse_trial

METHODS: dict[str, dict[str, Any]] = {
    "plain": {"name": "baseline"},
    "MixUp": {"name": "mixup"},
    "CutMix": {"name": "cutmix"},
    "ResizeMix": {"name": "resizemix", "placement": "clipped"},
    "SaliencyMix": {"name": "saliencymix"},
    "FMix": {"name": "fmix"},
    "PuzzleMix": {"name": "puzzlemix"},
    "Co-Mixup": {"name": "comixup"},
    "AutoMix": {"name": "automix"},
    "AMix": {"name": "amix"},
    "averaged": {"name": "averaged"},
}


def run_of(method: dict[str, Any], args: argparse.Namespace, device: torch.device) -> Trainer:
    width = {"width": 16} if args.backbone == "resnet8" else {}
    trial = {
        "seed": 0,
        "dataset": {"name": "digits", "size": args.size},
        "backbone": {"name": args.backbone, **width},
        "method": method,
        "train": {"epochs": 100, "batch_size": args.batch},
        "optimizer": {"name": "sgd", "lr": 0.01},
        "schedule": {"name": "constant"},
    }
    return Trainer(parse_trial(trial), device)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Of the clock on a GPU; of the processor on a CPU, where other work would count else."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    began = clock()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - began


def step(trainer: Trainer) -> None:
    if trainer.step >= trainer.steps_per_epoch - 1:  # the last batch is smaller
        trainer.epoch += 1
        trainer.start_epoch()
    trainer.train_step()


def generator_of(trainer: Trainer) -> Callable[[], object] | None:
    """Mixing one batch, where that can be done alone."""
    task: Any = trainer.task
    images, labels = next(iter(task.batches(trainer.epoch_plan, 0)))
    targets = task._targets(labels)
    context = StepContext(np.random.default_rng(0))
    try:
        task.method.mix(images, targets, context, task.model)
    except NotImplementedError:
        return None
    return lambda: task.method.mix(images, targets, context, task.model)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", default="resnet18", help="a CIFAR network")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--size", type=int, default=32, help="pixels of a side")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--methods", nargs="*", default=list(METHODS), help="default: all")
    args, device = parser.parse_args(), default_device()
    trainers = {
        name: run_of(METHODS[name], args, device)
        for name in dict.fromkeys(["plain", *args.methods])
    }
    times: dict[str, list[float]] = {name: [] for name in trainers}
    made: dict[str, list[float]] = {name: [] for name in trainers}
    makers = {name: generator_of(trainer) for name, trainer in trainers.items()}
    for number in range(args.rounds + 1):
        for name, trainer in trainers.items():
            spent = seconds(lambda trainer=trainer: step(trainer), device)  # type: ignore[misc]
            maker = makers[name]
            mixing = seconds(maker, device) if maker else float("nan")
            if number:  # the first round warms up
                times[name].append(spent)
                made[name].append(mixing)
    print(
        f"{args.backbone}, batches of {args.batch} at {args.size} px on {device}, "
        f"{torch.get_num_threads()} threads, median of {args.rounds}\n\n"
        "| method | step, ms | of the plain step | generator, ms |\n|---|---|---|---|"
    )
    for name in trainers:
        ratio = statistics.median(
            mine / plain for mine, plain in zip(times[name], times["plain"], strict=True)
        )
        spent, mixing = statistics.median(times[name]), statistics.median(made[name])
        shown = f"{1e3 * mixing:.1f}" if makers[name] else "–"
        print(f"| {name} | {1e3 * spent:.1f} | {ratio:.2f} | {shown} |")


if __name__ == "__main__":
    main()
