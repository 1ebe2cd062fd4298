"""A 3x3 convolution's training step on a CPU: plain, as sheets (`train.sheets`), by minimal
filtering (`train.winograd`).

    python -m benchmarks.convolutions [--batch 128] [--turns 9]

Medians of each, in alternation, for ResNet-18's maps and its weights, in fp32 and bf16:
`rm/backbones/_layout.py` takes the way that is marked.
"""

import argparse
import statistics
import time

import torch
from torch import nn

from rm.backbones._layout import SheetConv2d, WinogradConv2d, WinogradOrSheetConv2d
from rm.memory import keep_freed_memory

SHAPES = (
    (512, 512, 2, 1), (256, 512, 4, 2), (512, 512, 4, 1), (256, 512, 8, 2), (512, 512, 7, 1),
    (256, 256, 4, 1), (256, 256, 8, 1), (128, 256, 16, 2), (256, 256, 14, 1), (128, 128, 8, 1),
    (128, 128, 16, 1), (64, 64, 32, 1),
)  # fmt: skip
"""Input and output channels, pixels a side, stride."""


class _Sheets(SheetConv2d):
    def makes_sheets(self, input: torch.Tensor) -> bool:
        return True


class _Winograd(WinogradConv2d):
    def filters_minimally(self, input: torch.Tensor) -> bool:
        return True


def way_taken(conv: WinogradOrSheetConv2d, images: torch.Tensor) -> str:
    """As a trial with both options goes."""
    if conv.filters_minimally(images):
        return "winograd"
    return "sheets" if conv.makes_sheets(images) else "plain"


def step(conv: nn.Module, images: torch.Tensor, gradient: torch.Tensor) -> float:
    """Seconds of both passes."""
    conv.zero_grad()
    images.grad = None
    began = time.perf_counter()
    conv(images).backward(gradient)
    return time.perf_counter() - began


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--turns", type=int, default=9)
    args = parser.parse_args()
    keep_freed_memory()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, batch {args.batch}")
    print("| type | channels | map | stride | plain | sheets | winograd | taken |")
    print("|---|---|---|---|---|---|---|---|")
    for dtype in (torch.float32, torch.bfloat16):
        for shape in SHAPES:
            measure(dtype, *shape, args.batch, args.turns)


def measure(
    dtype: torch.dtype, channels: int, filters: int, side: int, stride: int, batch: int, turns: int
) -> None:
    """Print the row of a shape."""
    kinds = {"plain": nn.Conv2d, "sheets": _Sheets}
    if dtype == torch.float32 and stride == 1:
        kinds["winograd"] = _Winograd
    layers = {
        name: kind(channels, filters, 3, stride, 1, dtype=dtype).to(
            memory_format=torch.channels_last
        )
        for name, kind in kinds.items()
    }
    images = torch.randn((batch, channels, side, side), dtype=dtype)
    images = images.to(memory_format=torch.channels_last).requires_grad_()
    gradient = torch.randn_like(layers["plain"](images))
    seconds: dict[str, list[float]] = {name: [] for name in layers}
    for turn in range(turns + 1):
        for name, layer in layers.items():
            seconds[name] += [step(layer, images, gradient)] * (turn > 0)
    cells = (
        f"{1000 * statistics.median(seconds[name]):.1f} ms" if name in seconds else ""
        for name in ("plain", "sheets", "winograd")
    )
    taken = way_taken(WinogradOrSheetConv2d(channels, filters, 3, stride, 1, dtype=dtype), images)
    print(
        f"| {str(dtype).removeprefix('torch.')} | {channels} to {filters} | {side} | {stride} | "
        f"{' | '.join(cells)} | {taken} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
