"""A 3x3 convolution's training step on a CPU, image by image and as sheets (`train.sheets`).

    python -m benchmarks.sheets [--batch 128] [--turns 9]

Medians of each, in alternation, for ResNet-18's maps of up to 16 pixels and its weights, in fp32
and bf16: `rm/backbones/_layout.py` takes sheets where they are faster.
"""

import argparse
import statistics
import time

import torch
from torch import nn

from rm.backbones._layout import SheetConv2d
from rm.memory import keep_freed_memory

SHAPES = (
    (512, 512, 2, 1), (256, 512, 4, 2), (512, 512, 4, 1), (256, 512, 8, 2), (512, 512, 7, 1),
    (256, 256, 4, 1), (256, 256, 8, 1), (128, 256, 16, 2), (128, 128, 8, 1), (128, 128, 16, 1),
)  # fmt: skip
"""Input and output channels, pixels a side, stride."""


class _Always(SheetConv2d):
    def takes(self, input: torch.Tensor) -> bool:
        return True


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
    print("| type | channels | map | stride | plain | sheets | | taken |")
    print("|---|---|---|---|---|---|---|---|")
    for dtype in (torch.float32, torch.bfloat16):
        for channels, filters, side, stride in SHAPES:
            kinds = [
                kind(channels, filters, 3, stride, 1, dtype=dtype).to(
                    memory_format=torch.channels_last
                )
                for kind in (nn.Conv2d, _Always)
            ]
            shape = args.batch, channels, side, side
            images = torch.randn(shape, dtype=dtype).to(memory_format=torch.channels_last)
            images.requires_grad_()
            gradient = torch.randn_like(kinds[0](images))
            seconds: list[list[float]] = [[], []]
            for turn in range(args.turns + 1):
                for kind, taken in zip(kinds, seconds, strict=True):
                    taken += [step(kind, images, gradient)] * (turn > 0)
            plain, sheets = map(statistics.median, seconds)
            chosen = SheetConv2d(channels, filters, 3, stride, 1, dtype=dtype).takes(images)
            print(
                f"| {str(dtype).removeprefix('torch.')} | {channels} to {filters} | {side} | "
                f"{stride} | {1000 * plain:.1f} ms | {1000 * sheets:.1f} ms | "
                f"{plain / sheets:.2f}x | {'yes' if chosen else 'no'} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
