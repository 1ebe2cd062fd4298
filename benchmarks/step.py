"""Time of a RecursiveMix training step on real CIFAR-100, ours against the plain loop, and RM
against our own baseline.

    python -m benchmarks.step [--backbone resnet18 pyramidnet164_270] [--batch 128] [--pairs 7]
    [--epoch]

The contestants take turns, on a CPU in processes of their own; medians and their ratio are
printed. --epoch includes reading the data: a DataLoader with PIL crops and flips there, one gather
on the device here. Without it the plain loop gets batches that are ready.
"""

import argparse
import itertools
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks import apart
from benchmarks.plain import PlainRecursiveMix, cifar_loader
from rm import registry
from rm.datasets import data_dir
from rm.memory import keep_freed_memory
from rm.trainer import Trainer
from rm.trial import parse_trial

VARIANTS: dict[str, dict[str, Any]] = {
    "bf16": {},
    "bf16-groups": {"batch_norm_groups": 2},
    "bf16-no-sheets": {"sheets": False},
    "fp32": {"precision": "fp32"},
    "fp32-direct": {"precision": "fp32", "winograd": False},
    "fp16": {"precision": "fp16"},
    "compiled": {"compile": True},
    "fp32-compiled": {"precision": "fp32", "compile": True},
    "graph": {"cuda_graph": True},
}
"""Ours: bf16, channels last, sheets and minimal filtering, and what is changed of that."""
PLAIN, PLAIN_KEPT = "plain", "plain-kept"
"""The plain loop, as torch leaves it; with freed memory kept in its process, as ours has it."""
RM = {"name": "recursive_mix", "alpha": 0.5, "omega": 0.1}


def our_run(
    backbone: str,
    batch: int,
    method: dict[str, Any],
    device: torch.device,
    digits: bool = False,
    **train: Any,
) -> Trainer:
    """Table 3's trial of this backbone and method, on a device. Digits take CIFAR-100's place,
    in whole batches, where there is none, and for networks of 224 px at that size.
    """
    large = backbone.startswith("imagenet_")
    dataset: dict[str, Any] = {"name": "digits", "size": 224} if large else {"name": "cifar100"}
    if digits and not large:
        dataset = {"name": "digits", "size": 32, "limit": 1000 // batch * batch}
    return Trainer(
        parse_trial(
            {
                "seed": 0,
                "dataset": dataset,
                "backbone": {"name": backbone},
                "method": method,
                "train": {
                    "epochs": 200,
                    "batch_size": batch,
                    "precision": "bf16",
                    "sheets": True,
                    "winograd": True,
                    **train,
                },
                "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4},
                "schedule": {"name": "cosine", "warmup_epochs": 5},
            }
        ),
        device,
    )


def step(run: Trainer) -> None:
    """One step, of the next epoch where one has ended."""
    if run.step >= run.steps_per_epoch:
        run.epoch += 1
        run.start_epoch()
    run.train_step()


def alternate(
    contestants: dict[str, Callable[[], object]],
    pairs: int,
    device: torch.device,
    warm_up: int = 2,
) -> dict[str, list[float]]:
    """Seconds of each contestant, one call after the other, `pairs` times, after some rounds to
    warm up. Those of one thread on a CPU are the processor's: what else runs counts little.
    """
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for round_number in range(pairs + warm_up):
        for name, call in contestants.items():
            wait(device)
            began = clock()
            call()
            wait(device)
            if round_number >= warm_up:
                seconds[name].append(clock() - began)
    return seconds


def wait(device: torch.device) -> None:
    """Until the device has done all that was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def plain_run(name: str, args: argparse.Namespace, device: torch.device) -> Callable[[], object]:
    """A step of the plain loop."""
    torch.manual_seed(0)
    plain = PlainRecursiveMix(registry.load("backbone", name)(100, 3), 100, device, fp16=args.fp16)
    if args.epoch:
        loader = cifar_loader(data_dir(), args.batch, args.workers)
        return lambda: plain.step(*next(loader))
    turns = itertools.cycle(list(itertools.islice(cifar_loader(data_dir(), args.batch, 0), 4)))

    def plain_step() -> None:
        images, labels = next(turns)
        plain.step(images.clone(), labels)

    return plain_step


def contestant(
    name: str, variant: str, args: argparse.Namespace, device: torch.device
) -> Callable[[], object]:
    """A step of the plain loop or of a variant of ours."""
    if variant in (PLAIN, PLAIN_KEPT):
        return plain_run(name, args, device)
    return our_run(name, args.batch, RM, device, **VARIANTS[variant]).train_step


def against_plain(name: str, args: argparse.Namespace, device: torch.device) -> None:
    """Ours, in bf16 and in fp32, against the plain loop."""
    if device.type == "cpu":
        seconds = apart.alternate(
            {
                variant: _words(args, "--turns-of", variant, "--backbone", name)
                for variant in (PLAIN, *args.variants)
            },
            args.pairs,
        )
    else:
        calls = {
            variant: contestant(name, variant, args, device) for variant in (PLAIN, *args.variants)
        }
        seconds = alternate(calls, args.pairs, device)
    base = statistics.median(seconds[PLAIN])
    for label, values in seconds.items():
        middle = statistics.median(values)
        print(
            f"{name:20} {f'ours {label}' if label in VARIANTS else label:18} "
            f"{1000 * middle:9.1f} ms/step {base / middle:6.2f}x plain "
            f"{args.batch / middle:8.0f} images/s"
        )


def take_turns(args: argparse.Namespace, device: torch.device) -> None:
    """As a process of one contestant; ours with memory as a launched trial has it."""
    if args.turns_of != PLAIN:
        keep_freed_memory()
    apart.serve(contestant(args.backbone[0], args.turns_of, args, device))


def _words(args: argparse.Namespace, *more: str) -> list[str]:
    """Behind `python`, for a process with these arguments and more."""
    words = ["-m", "benchmarks.step", "--batch", str(args.batch), "--device", str(args.device)]
    words += ["--workers", str(args.workers), *more]
    return words + ["--epoch"] * args.epoch + ["--fp16"] * args.fp16


def overhead(name: str, args: argparse.Namespace, device: torch.device) -> None:
    """RM's step against our own baseline's, in time (alternating) and in peak memory (a process
    each on a CPU).
    """
    keep_freed_memory()
    runs = {
        label: our_run(name, args.batch, method, device)
        for label, method in (("baseline", {"name": "baseline"}), ("RM", RM))
    }
    seconds = alternate(
        {label: run.train_step for label, run in runs.items()}, 2 * args.pairs, device
    )
    ratios = [rm / base for base, rm in zip(seconds["baseline"], seconds["RM"], strict=True)]
    print(
        f"{name:20} RM over baseline: time {100 * (statistics.median(ratios) - 1):+.1f} %", end=""
    )
    memory = {label: _peak(name, label, args) for label in runs}
    print(
        f", peak memory {100 * (memory['RM'] / memory['baseline'] - 1):+.1f} % "
        f"({memory['RM']:.0f} MiB)"
    )


def _peak(name: str, label: str, args: argparse.Namespace) -> float:
    done = subprocess.run(
        [sys.executable, *_words(args, "--peak", label, "--backbone", name)],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


def peak(args: argparse.Namespace, device: torch.device) -> float:
    """MiB that three steps of the first variant took at most: of the process on a CPU, of the
    allocator on a GPU.
    """
    keep_freed_memory()
    method = RM if args.peak == "RM" else {"name": "baseline"}
    run = our_run(args.backbone[0], args.batch, method, device, **VARIANTS[args.variants[0]])
    for _ in range(3):
        run.train_step()
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", nargs="+", default=["resnet18", "pyramidnet164_270"])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--pairs", type=int, default=7, help="measurements of each contestant")
    parser.add_argument(
        "--epoch", action="store_true", help="include reading and augmenting the data"
    )
    parser.add_argument(
        "--workers", type=int, default=2, help="DataLoader workers of the plain loop"
    )
    parser.add_argument(
        "--variants",
        nargs="+",
        choices=[*VARIANTS, PLAIN_KEPT],
        default=["bf16", "bf16-groups", "fp32"],
        help="of ours",
    )
    parser.add_argument(
        "--fp16",
        action="store_true",
        help="plain loop with fp16 AMP, as the authors ran it on GPUs",
    )
    parser.add_argument(
        "--no-overhead", action="store_true", help="leave out RM against our baseline"
    )
    parser.add_argument(
        "--only-overhead", action="store_true", help="RM against our baseline alone"
    )
    parser.add_argument(
        "--device", type=torch.device, default="cuda" if torch.cuda.is_available() else "cpu"
    )
    parser.add_argument(
        "--peak", choices=["RM", "baseline"], help="print the MiB that its steps take, no more"
    )
    parser.add_argument("--turns-of", help=argparse.SUPPRESS)
    args = parser.parse_args()
    device = torch.device(args.device)
    if args.peak:
        print(peak(args, device))
        return
    if args.turns_of:
        take_turns(args, device)
        return
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {device}, batch "
        f"{args.batch}"
    )
    for name in args.backbone:
        if not args.only_overhead:
            against_plain(name, args, device)
        if not args.no_overhead:
            overhead(name, args, device)


if __name__ == "__main__":
    main()
