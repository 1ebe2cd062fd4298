"""Where the time of one RecursiveMix step goes, by kind of operation, and what its parts cost on their own.

python -m benchmarks.profile_step [--backbone resnet18] [--batch 128]
"""

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile
from torchvision.ops import roi_align

from benchmarks.step import RM, our_run
from rm.consistency import roi_features
from rm.ops import mix_targets, resize_fill

KINDS = {
    "convolution": ("conv",),
    "batch norm": ("batch_norm", "batchnorm"),
    "ReLU, add, pooling": ("relu", "threshold", "add", "mean", "pool"),
    "casts and copies": ("copy", "to_copy", "clone", "fill", "zero"),
    "optimizer": ("sgd", "adam", "optimizer"),
    "gather": ("index",),
    "linear and softmax": ("addmm", "mm", "softmax", "linear"),
}


def kind_of(name: str) -> str:
    """The row of the table that an operator belongs to."""
    lowered = name.lower()
    return next((kind for kind, words in KINDS.items() if any(word in lowered for word in words)), "other")


def milliseconds(call: Callable[[], object], times: int = 15) -> float:
    """Median of a few calls, after one to warm up."""
    call()
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return 1000 * statistics.median(seconds)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--batch", type=int, default=128)
    given = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    run = our_run(given.backbone, given.batch, RM, device)
    for _ in range(3):
        run.take_step()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with profile(activities=activities) as seen:
        run.take_step()
    totals: dict[str, float] = defaultdict(float)
    for event in seen.key_averages():
        on_device = event.self_device_time_total if device.type == "cuda" else event.self_cpu_time_total
        totals[kind_of(event.key)] += on_device / 1000
    whole = sum(totals.values())
    print(f"{given.backbone}, batch {given.batch}, bf16, channels last, {device}: {whole:.0f} ms in operators")
    for kind, spent in sorted(totals.items(), key=lambda item: -item[1]):
        print(f"  {kind:22}{spent:9.1f} ms {100 * spent / whole:6.1f} %")

    images, _ = run.train.batch(run.views, slice(0, given.batch))
    previous, box = images.clone(), (8, 6, 24, 22)
    features = torch.randn(given.batch, 512, 4, 4, device=device)
    corners = torch.tensor([[i, 6.0, 8.0, 22.0, 24.0] for i in range(given.batch)], device=device)
    targets = torch.rand(given.batch, 100, device=device)
    parts: dict[str, Callable[[], object]] = {
        "gather, crop, flip, normalise a batch": lambda: run.train.batch(run.views, slice(0, given.batch)),
        "resize and paste": lambda: resize_fill(images, previous, box),
        "mix labels": lambda: mix_targets(targets, targets, 0.25),
        "region features, ours": lambda: roi_features(features, box, (32, 32)),
        "region features, torchvision's RoIAlign": lambda: roi_align(features, corners, 1, 1 / 8, -1, True),
        "remember the batch": lambda: run.method.state_dict(),
        "optimizer step": lambda: run.optimizer.step(),
    }
    for part, call in parts.items():
        print(f"  {part:42}{milliseconds(call):9.3f} ms")


if __name__ == "__main__":
    main()
