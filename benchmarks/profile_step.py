"""Where the time of a RecursiveMix step goes, by kind of operation; what its parts cost alone; how
near to the peak it is.

python -m benchmarks.profile_step [--backbone resnet18] [--batch 128] [--steps 10]
                                  [--precision fp32]

With one thread on a CPU (OMP_NUM_THREADS=1) all times are the processor's, so that what else runs
on the machine counts little.
"""

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from torchvision.ops import roi_align

from benchmarks.step import RM, our_run, step, wait
from rm.methods._consistency import roi_features
from rm.ops import mix_targets, resize_fill
from rm.trainer import Trainer

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
    return next(
        (kind for kind, words in KINDS.items() if any(word in lowered for word in words)), "other"
    )


def milliseconds(call: Callable[[], object], device: torch.device, times: int = 15) -> float:
    """Median of a few calls, after one to warm up; each until the device is done."""
    call()
    seconds = []
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter
    for _ in range(times):
        wait(device)
        began = clock()
        call()
        wait(device)
        seconds.append(clock() - began)
    return 1000 * statistics.median(seconds)


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a large matrix product of random numbers."""
    side = 8192 if device.type == "cuda" else 2048
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2 * side**3 / (milliseconds(lambda: left @ right, device, 10) / 1000)


def by_kind(run: Trainer, steps: int) -> dict[str, float]:
    """Milliseconds a step in each kind of operation: computing on a CPU, in the kernels that it
    launched on a GPU.
    """
    on_gpu = run.device.type == "cuda"
    with profile(
        activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    ) as seen:
        for _ in range(steps):
            step(run)
        wait(run.device)
    totals: dict[str, float] = defaultdict(float)
    for event in seen.key_averages():
        if event.device_type == DeviceType.CPU:  # kernels are listed once more by themselves
            spent = event.self_device_time_total if on_gpu else event.self_cpu_time_total
            totals[kind_of(event.key)] += spent / 1000 / steps
    return totals


def operators(run: Trainer, word: str = "") -> int:
    """How many operators of that word one step calls, each with those it is made of."""
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        step(run)
    return sum(
        e.count for e in seen.key_averages() if e.key.startswith("aten::") and word in e.key
    )


def operators_outside(run: Trainer) -> int:
    """How many of them a host has to send one by one where the rest of a step is a CUDA graph:
    those of a step whose captured part does nothing.
    """
    static, found = run.static, []
    if static is None:
        raise ValueError("a run without cuda_graph has no captured part")
    body = static.body
    static.body = lambda kind, tensors: found.append(body(kind, tensors)) or found[-1]
    while not found or "consistency_loss" not in found[-1].logs:
        step(run)
    static.body = lambda kind, tensors: found[-1]
    return operators(run)


def parts(run: Trainer, batch: int, device: torch.device) -> dict[str, Callable[[], object]]:
    """What RecursiveMix adds to a step, and what it could have been made of."""
    images, _ = run.task.images.batch(run.epoch_plan, slice(0, batch))
    previous, box = images.clone(), (8, 6, 24, 22)
    features = torch.randn(batch, 512, 4, 4, device=device)
    corners = torch.tensor([[i, 6.0, 8.0, 22.0, 24.0] for i in range(batch)], device=device)
    targets = torch.rand(batch, 100, device=device)
    return {
        "gather, crop, flip, normalise a batch": lambda: run.task.images.batch(
            run.epoch_plan, slice(0, batch)
        ),
        "resize and paste": lambda: resize_fill(images, previous, box),
        "mix labels": lambda: mix_targets(targets, targets, 0.25),
        "region features, ours": lambda: roi_features(features, box, (32, 32)),
        "region features, torchvision's RoIAlign": lambda: roi_align(
            features, corners, 1, 1 / 8, -1, True
        ),
        "remember the batch": lambda: run.task.method.state_dict(),
        "optimizer step": lambda: run.optimizer.step(),
    }


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument(
        "--steps", type=int, default=10, help="that are profiled, and timed without the profiler"
    )
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16")
    parser.add_argument("--batch-norm-groups", type=int, default=1)
    parser.add_argument("--digits", action="store_true", help="instead of CIFAR-100")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    options = {"precision": args.precision, "batch_norm_groups": args.batch_norm_groups}
    run = our_run(args.backbone, args.batch, RM, device, args.digits, **options)
    for _ in range(5):
        step(run)
    with FlopCounterMode(display=False) as flops:
        step(run)

    def steps() -> None:
        for _ in range(args.steps):
            step(run)

    taken = milliseconds(steps, device, 3) / args.steps
    totals = by_kind(run, args.steps)
    whole = sum(totals.values())
    print(
        f"{args.backbone}, batch {args.batch}, {args.precision}, channels last, {device}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    busy = (
        f"kernels run {100 * whole / taken:.0f} % of it"
        if device.type == "cuda"
        else f"{whole:.0f} ms in operators"
    )
    print(f"a step takes {taken:.2f} ms, {1000 * args.batch / taken:,.0f} images/s; {busy}")
    for kind, spent in sorted(totals.items(), key=lambda item: -item[1]):
        print(f"  {kind:22}{spent:9.2f} ms {100 * spent / whole:6.1f} %")
    dtype = torch.bfloat16 if args.precision == "bf16" else torch.float32
    reached, peak = flops.get_total_flops() / (taken / 1000), matmul_peak(device, dtype)
    dense = sum(totals[kind] for kind in ("convolution", "linear and softmax"))
    share = 100 * reached / peak
    print(
        f"{reached / 1e12:.3f} TFLOP/s in convolutions and products: {share:.0f} % of what a "
        f"large {args.precision} matrix product reaches here, {peak / 1e12:.3f} TFLOP/s; "
        f"{share * whole / dense:.0f} % while they run"
    )
    print(f"operators a step: {operators(run)}, of which {operators(run, 'sgd')} the optimizer's")
    options["cuda_graph"] = True
    graph = our_run(args.backbone, args.batch, RM, device, args.digits, **options)
    print(f"of them outside of what train.cuda_graph captures: {operators_outside(graph)}")
    for part, call in parts(run, args.batch, device).items():
        print(f"  {part:42}{milliseconds(call, device):9.3f} ms")


if __name__ == "__main__":
    main()
