"""What was compared with what, and the largest difference: our code against implementations that
share nothing with it, and against the recorded numbers of the released code.

    python -m benchmarks.fidelity [--cases 2000]

"Reference" is `tests/support/rm/reference.py`, written a second time from the description alone,
with loops over the samples. Tests hold each of these rows to a tolerance; this prints what it is.
"""

import argparse
import copy
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from timm.scheduler import CosineLRScheduler
from torch import Tensor, nn

from rm import registry
from rm.backbones._ghost_norm import group_batch_norm
from rm.datasets import InMemorySplit
from rm.input.device_images import DeviceImages, plan_epoch
from rm.input.image_files import ColorJitter
from rm.methods._consistency import ConsistencyNetwork, roi_features
from rm.ops import mix_targets, mixed_area, resize_fill, sample_box, soft_cross_entropy
from rm.schedules import Progress, cosine, cosine_floor, step
from tests.support.rm import reference
from tests.support.rm.trajectory import differences, record, without_kinks
from tests.support.trials import TINY

CPU = torch.device("cpu")
PARAMETERS = {
    ("pyramidnet200_240", 10): (26_752_702, 26_762_952),
    ("pyramidnet164_270", 100): (27_319_071, 27_433_571),
    ("resnet18", 100): (11_220_132, 11_271_432),
    ("resnet34", 100): (21_328_292, 21_379_592),
    ("densenet121", 100): (7_048_548, 7_151_048),
    ("densenet161", 100): (26_681_188, 26_902_088),
    ("imagenet_resnet50", 1000): (25_557_032, 27_606_032),
    ("imagenet_pvt_v2_b1", 1000): (14_009_000, 14_522_000),
}
"""Network and classes -> parameters of the released code without and with the second head."""


class Row(NamedTuple):
    """One comparison; difference: the largest one of all cases."""

    what: str
    against: str
    cases: int
    difference: float


def rows(cases: int) -> Iterator[Row]:
    """All comparisons, the quick ones with so many random cases."""
    yield _boxes(cases)
    yield from _pasting(cases // 10)
    yield _regions(cases // 10)
    yield _losses(cases // 10)
    yield from _trajectories()
    yield from _learning_rates()
    yield _crops(cases // 10)
    yield _jitter(cases // 20)
    yield _batch_norm(cases // 100)
    yield _parameters()


def _largest(cases: int, one: Callable[[np.random.Generator], float]) -> float:
    """Of so many cases, each with its own generator."""
    return max(one(np.random.default_rng(case)) for case in range(max(1, cases)))


def _boxes(cases: int) -> Row:
    def one(draws: np.random.Generator) -> float:
        height, width = (int(side) for side in draws.integers(1, 225, 2))
        alpha, seed = float(draws.uniform(0, 1)), int(draws.integers(2**31))
        ours, theirs = np.random.default_rng(seed), np.random.default_rng(seed)
        box = sample_box((height, width), float(ours.uniform(0, alpha)), ours)
        expected = reference.draw_box(theirs, alpha, height, width)
        area = mixed_area(box, (height, width)) - reference.box_area(expected, height, width)
        return max(*(abs(a - b) for a, b in zip(box, expected, strict=True)), abs(area))

    return Row("box and its area", "reference", cases, _largest(cases, one))


def _images(draws: np.random.Generator, *shape: int) -> Tensor:
    return torch.from_numpy(draws.standard_normal(shape))


def _box(draws: np.random.Generator, height: int, width: int) -> tuple[int, int, int, int]:
    y0, x0 = int(draws.integers(height)), int(draws.integers(width))
    return y0, x0, int(draws.integers(y0 + 1, height + 1)), int(draws.integers(x0 + 1, width + 1))


def _pasting(cases: int) -> Iterator[Row]:
    for mode in ("nearest", "bilinear"):

        def one(draws: np.random.Generator, mode: str = mode) -> float:
            height, width = (int(side) for side in draws.integers(4, 40, 2))
            images, previous = _images(draws, 3, 2, height, width), _images(draws, 3, 2, 17, 23)
            box = _box(draws, height, width)
            ours = resize_fill(images, previous, box, mode)
            return _gap(ours, reference.paste(images, previous, box, mode))

        yield Row(f"resized paste, {mode}", "reference", cases, _largest(cases, one))


def _regions(cases: int) -> Row:
    def one(draws: np.random.Generator) -> float:
        rows, columns, scale = (int(n) for n in draws.integers(1, 9, 3))
        height, width = rows * scale, columns * scale
        features, box = _images(draws, 2, 3, rows, columns), _box(draws, height, width)
        transposed = bool(draws.integers(2)) and height == width
        ours = roi_features(features, box, (height, width), transposed=transposed)
        return _gap(ours, reference.region_features(features, box, height, width, transposed))

    return Row("region's features", "torchvision's roi_align", cases, _largest(cases, one))


def _losses(cases: int) -> Row:
    def one(draws: np.random.Generator) -> float:
        classes = int(draws.integers(2, 100))
        logits = _images(draws, 5, classes)
        labels = torch.from_numpy(draws.integers(classes, size=5))
        area = float(draws.uniform())
        own = F.one_hot(labels, classes).double()
        targets = mix_targets(own, own.flip(0), area)
        expected = (1 - area) * own + area * own.flip(0)
        ours = soft_cross_entropy(logits, targets)
        return _gap(ours, reference.soft_cross_entropy(logits, expected))

    return Row("mixed labels and their loss", "reference", cases, _largest(cases, one))


def _gap(a: Tensor, b: Tensor) -> float:
    return float((a - b).detach().abs().max())


def _trial() -> dict[str, Any]:
    trial = copy.deepcopy(TINY)
    trial["dataset"]["limit"] = 74
    trial["train"] |= {"epochs": 5, "batch_size": 8}
    return trial


def _trajectories() -> Iterator[Row]:
    cases = ({}, {"omega": 0.0}, {"roi": "transposed"}, {"interpolation": "bilinear"})
    for precision, dtype in (("float64", torch.float64), ("float32, SiLU", torch.float32)):
        found: list[dict[str, float]] = []
        for case in cases:
            trial = _trial()
            trial["method"] |= case
            prepare = without_kinks if dtype == torch.float32 else lambda model: None
            found.append(differences(trial, record(trial, dtype, prepare)))
        for what in ("loss", "logits", "weights"):
            name = f"20 steps of RM with history, {precision}: {what}"
            yield Row(name, "reference", len(cases), max(one[what] for one in found))


def _learning_rates() -> Iterator[Row]:
    settings = reference.Settings(10, 0.5, 0.1, 0.1, epochs=200, warmup_epochs=5)
    gaps = [
        0.1 * cosine(Progress(epoch, 200), warmup_epochs=5)
        - reference.learning_rate(settings, epoch)
        for epoch in range(1, 201)
    ]
    yield Row("learning rate, cosine with warmup", "reference", 200, max(map(abs, gaps)))
    recorded = {1: 0.041667, 2: 0.083333, 150: 0.25, 151: 0.025, 225: 0.025, 226: 0.0025}
    options: dict[str, Any] = {"milestones": [150, 225], "gamma": 0.1, "warmup_epochs": 5}
    gaps = [0.25 * step(Progress(e, 300), **options) - lr for e, lr in recorded.items()]
    yield Row("the same, CIFAR-10", "released logs, 6 digits", len(gaps), max(map(abs, gaps)))
    recorded = {1: 0.033333, 300: 0.000005}
    gaps = [0.2 * cosine(Progress(e, 300), warmup_epochs=5) - lr for e, lr in recorded.items()]
    yield Row("the same, ImageNet", "released log, 6 digits", len(gaps), max(map(abs, gaps)))
    timms = CosineLRScheduler(
        torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=5e-4),
        t_initial=300,
        lr_min=1e-5,
        warmup_t=5,
        warmup_lr_init=1e-6,
    )
    options = {"floor": 0.02, "warmup_epochs": 5, "warmup_start": 0.002}
    gaps = [
        5e-4 * cosine_floor(Progress(epoch, 300), **options) - timms._get_lr(epoch - 1)[0]
        for epoch in range(1, 301)
    ]
    yield Row("the same, PVTv2", "timm's scheduler", 300, max(map(abs, gaps)))


def _crops(cases: int) -> Row:
    """Padded, cropped and mirrored, then normalised, an image at a time by torchvision."""
    mean, std = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
    draws = np.random.default_rng(0)
    pixels = torch.from_numpy(draws.integers(256, size=(cases, 32, 32, 3), dtype=np.uint8))
    split = InMemorySplit(pixels, torch.zeros(cases, dtype=torch.int64))
    images = DeviceImages(split, 4, mean, std, CPU, flip=True)
    views = plan_epoch(cases, 4, True, draws, CPU)
    ours, _ = images.batch(views, slice(0, cases))
    gaps = []
    for position in range(cases):
        image = pixels[views.index[position]].permute(2, 0, 1) / 255
        padded = torchvision.transforms.functional.pad(image, [4])
        top, left = int(views.top[position]), int(views.left[position])
        shown = padded[:, top : top + 32, left : left + 32]
        if views.flip[position]:
            shown = torchvision.transforms.functional.hflip(shown)
        shown = torchvision.transforms.functional.normalize(shown, list(mean), list(std))
        gaps.append(_gap(ours[position], shown))
    return Row("crop, flip and normalisation, float32", "torchvision", cases, max(gaps))


def _jitter(cases: int) -> Row:
    """The three steps as clovaai/CutMix-PyTorch describes them, by torch.lerp."""

    def one(draws: np.random.Generator) -> float:
        pixels = 255 * torch.from_numpy(draws.random((3, 9, 8))).float()
        seed = int(draws.integers(2**31))
        torch.manual_seed(seed)
        ours = ColorJitter(0.4)(pixels)
        torch.manual_seed(seed)
        amounts, order = torch.empty(3).uniform_(-0.4, 0.4), torch.randperm(3)
        for kind in order.tolist():
            grey = (0.299 * pixels[0] + 0.587 * pixels[1] + 0.114 * pixels[2]).expand(3, 9, 8)
            ends = (torch.zeros(3, 9, 8), torch.full((3, 9, 8), grey.mean().item()), grey)
            pixels = torch.lerp(pixels, ends[kind], amounts[kind].item())
        return _gap(ours, pixels) / 255

    return Row("colour jitter, float32, of 1", "CutMix's steps", cases, _largest(cases, one))


def _batch_norm(cases: int) -> Row:
    def one(draws: np.random.Generator) -> float:
        devices = [nn.BatchNorm2d(4).double() for _ in range(2)]
        grouped = nn.Sequential(copy.deepcopy(devices[0]))
        group_batch_norm(grouped, 2)
        images = _images(draws, 8, 4, 5, 6)
        parts = zip(devices, images.chunk(2), strict=True)
        return _gap(grouped(images), torch.cat([norm(part) for norm, part in parts]))

    return Row("batch norm in groups", "one network a device", max(1, cases), _largest(cases, one))


def _parameters() -> Row:
    gaps = []
    for (name, classes), expected in PARAMETERS.items():
        with torch.device("meta"):
            plain = registry.load("backbone", name)(classes, 3)
            counts = [sum(p.numel() for p in plain.parameters())]
            head = plain.head.weight.numel() + classes
        counts.append(counts[0] + head)
        if plain.has_map:
            with torch.device("meta"):
                counts[1] = sum(p.numel() for p in ConsistencyNetwork(plain).parameters())
        gaps += [abs(a - b) for a, b in zip(counts, expected, strict=True)]
    return Row("parameters, one head and two", "released code", len(gaps), float(max(gaps)))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=2000, help="random cases (default: 2000)")
    cases = parser.parse_args(arguments).cases
    torch.set_num_threads(1)  # all networks here are tiny
    print("| what | against | cases | largest difference |\n|---|---|---|---|")
    for row in rows(cases):
        gap = "0" if row.difference == 0 else f"{row.difference:.1e}"
        print(f"| {row.what} | {row.against} | {row.cases:,} | {gap} |", flush=True)


if __name__ == "__main__":
    main()
