"""Two ways to write RecursiveMix's paste for compilers and CUDA graphs: slices of another shape at
each step, or one fixed grid.

    python -m benchmarks.static_shapes [--backbone resnet18] [--batch 128] [--boxes 8] [--rounds 5]

    slices   what rm does: resize the previous images to the box, write them into it. Its shapes
             change with every box, so only the network's features are compiled (`compile: true`)
    grid     rows and columns to take from the previous images, drawn up on the host, and a mask of
             where: shapes never change, so that a whole step can be compiled, or captured in a
             CUDA graph

A turn is a step (forward and backward) on each box. Contestants alternate in one process, with the
same weights, real images and boxes; what they compute is compared with the eager slices bit by
bit. The first compilation is not counted, later ones are.
"""

import argparse
import copy
import os
import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.step import alternate
from rm import registry
from rm.datasets import load
from rm.input.stream import open_images
from rm.methods._consistency import ConsistencyNetwork, region_weights
from rm.ops import Box, mix_targets, mixed_area, resize_fill, sample_box, soft_cross_entropy

OMEGA = 0.1


class Batch(NamedTuple):
    """This step's images and one-hot targets, and the step before's with its logits."""

    images: Tensor
    targets: Tensor
    previous: Tensor
    previous_targets: Tensor
    previous_logits: Tensor


class Grid(NamedTuple):
    """A box as tensors of one shape, whatever box it is."""

    rows: Tensor
    columns: Tensor
    inside: Tensor
    """(H, W): where the previous images go."""
    region: Tensor
    """(h, w): RoIAlign's weights on the feature map."""
    keep: Tensor
    area: Tensor


def sources(start: int, stop: int, size: int) -> np.ndarray:
    """For each of `size` positions the one it shows of the previous image, as torch's nearest
    interpolation reckons: in float32.
    """
    scale = np.float32(size) / np.float32(stop - start)
    inner = np.floor(np.arange(stop - start, dtype=np.float32) * scale).astype(np.int64)
    found = np.zeros(size, np.int64)
    found[start:stop] = np.minimum(inner, size - 1)
    return found


def draw_up(
    box: Box, size: tuple[int, int], features: tuple[int, int], device: torch.device
) -> Grid:
    """The box as a grid, reckoned on the host."""
    y0, x0, y1, x1 = box
    inside = np.zeros(size, bool)
    inside[y0:y1, x0:x1] = True
    area = mixed_area(box, size)
    weights = region_weights(box, size, features).numpy().astype(np.float32)
    arrays = (sources(y0, y1, size[0]), sources(x0, x1, size[1]), inside, weights)
    numbers = (np.array(each, np.float32) for each in (1 - area, area))
    tensors = map(torch.from_numpy, (*arrays, *numbers))
    return Grid(*(tensor.to(device, non_blocking=True) for tensor in tensors))


def paste(images: Tensor, previous: Tensor, grid: Grid) -> Tensor:
    """`resize_fill`, nearest, by a gather and a mask."""
    return torch.where(grid.inside, previous[:, :, grid.rows[:, None], grid.columns], images)


def loss_of_slices(model: ConsistencyNetwork, batch: Batch, box: Box) -> Tensor:
    """As rm/methods/recursive_mix.py."""
    area = mixed_area(box, (batch.images.shape[-2], batch.images.shape[-1]))
    images = resize_fill(batch.images, batch.previous, box)
    targets = mix_targets(batch.targets, batch.previous_targets, area)
    logits, region = model(images, box)
    said = batch.previous_logits.softmax(1, dtype=torch.float32)
    return soft_cross_entropy(logits, targets) + OMEGA * area * soft_cross_entropy(region, said)


def loss_of_grid(model: ConsistencyNetwork, batch: Batch, grid: Grid) -> Tensor:
    """The same with fixed shapes throughout."""
    images = paste(batch.images, batch.previous, grid)
    targets = torch.addcmul(batch.targets * grid.keep, batch.previous_targets, grid.area)
    features = model.backbone.features(images)
    logits = model.backbone.head(model.backbone.pool(features))
    region = model.second_head((features.float() * grid.region).sum((2, 3)))  # type: ignore[misc]
    said = batch.previous_logits.softmax(1, dtype=torch.float32)
    return soft_cross_entropy(logits, targets) + OMEGA * grid.area * soft_cross_entropy(
        region, said
    )


class Contestant:
    """A way to take a step, with a copy of the model of its own."""

    def __init__(
        self, model: ConsistencyNetwork, args: argparse.Namespace, loss: Callable[..., Tensor]
    ) -> None:
        self.model, self.loss, self.device = copy.deepcopy(model), loss, args.device
        self.autocast = torch.autocast(
            args.device.type, torch.bfloat16, enabled=args.precision == "bf16"
        )

    def step(self, batch: Batch, box: Any) -> Tensor:
        """Returns the loss; the gradients are the model's."""
        for parameter in self.model.parameters():
            if parameter.grad is not None:
                parameter.grad.zero_()
        with self.autocast:
            loss = self.loss(self.model, batch, box)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()


class Captured(Contestant):
    """A whole eager step in one CUDA graph; a step is to copy the box into its place and to replay
    it.
    """

    def __init__(
        self, model: ConsistencyNetwork, args: argparse.Namespace, batch: Batch, grid: Grid
    ) -> None:
        super().__init__(model, args, loss_of_grid)
        self.grid = Grid(*(part.clone() for part in grid))
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                super().step(batch, self.grid)
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.result = super().step(batch, self.grid)

    def step(self, batch: Batch, box: Any) -> Tensor:
        for place, value in zip(self.grid, box, strict=True):
            place.copy_(value, non_blocking=True)
        self.graph.replay()
        return self.result


def contestants(
    model: ConsistencyNetwork, args: argparse.Namespace, batch: Batch, grid: Grid
) -> dict[str, Callable[[], Contestant]]:
    """How each is made; some need a GPU."""
    featured = copy.deepcopy(model)
    compiled = torch.compile(featured.backbone.features)
    featured.backbone.features = compiled  # type: ignore[method-assign]
    found: dict[str, Callable[[], Contestant]] = {
        "slices, eager": lambda: Contestant(model, args, loss_of_slices),
        "slices, features compiled": lambda: _given(
            featured, Contestant(model, args, loss_of_slices)
        ),
        "grid, eager": lambda: Contestant(model, args, loss_of_grid),
        "grid, all compiled": lambda: Contestant(model, args, torch.compile(loss_of_grid)),
    }
    if args.device.type == "cuda":
        found["grid, all compiled, CUDA graphs"] = lambda: Contestant(
            model, args, torch.compile(loss_of_grid, mode="reduce-overhead")
        )
        found["grid, eager, one CUDA graph"] = lambda: Captured(model, args, batch, grid)
    return found


def _given(model: ConsistencyNetwork, contestant: Contestant) -> Contestant:
    contestant.model = model  # a compiled method does not survive a deep copy
    return contestant


def a_batch(args: argparse.Namespace) -> tuple[Batch, int]:
    """Two batches of real images, and the number of classes."""
    data = load(args.dataset, {"size": 32} if args.dataset == "digits" else {})
    train, _ = open_images(data, args.device, 1)
    views = train.sample_epoch(np.random.default_rng(0))
    found = list(train.batches(views, [slice(0, args.batch), slice(args.batch, 2 * args.batch)]))
    (previous, earlier), (images, labels) = found
    hot = [F.one_hot(each, data.classes).float() for each in (labels, earlier)]
    torch.manual_seed(1)
    logits = torch.randn(args.batch, data.classes).to(args.device)
    return Batch(images, hot[0], previous, hot[1], logits), data.classes


def draw_boxes(count: int, size: tuple[int, int]) -> list[Box]:
    """Boxes that hold at least a pixel."""
    generator, boxes = np.random.default_rng(0), []
    while len(boxes) < count:
        box = sample_box(size, float(generator.uniform(0, 0.5)), generator)
        if mixed_area(box, size) > 0:
            boxes.append(box)
    return boxes


def compare(found: list[Tensor], wanted: list[Tensor]) -> str:
    """How far results are from the eager slices'."""
    if all(torch.equal(ours, theirs) for ours, theirs in zip(found, wanted, strict=True)):
        return "bit-equal"
    largest = max(
        float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, wanted, strict=True)
    )
    return f"differs by {largest:.1e} of the largest value"


def results(
    contestant: Contestant, batch: Batch, boxes: Sequence[Any]
) -> tuple[list[Tensor], list[Tensor]]:
    """Losses, and the gradients of the last box."""
    losses = [contestant.step(batch, box).clone() for box in boxes]
    return losses, [p.grad.clone() for p in contestant.model.parameters() if p.grad is not None]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--dataset", choices=["cifar100", "cifar10", "digits"], default="cifar100")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--boxes", type=int, default=8, help="steps of a turn, a box each")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16")
    parser.add_argument(
        "--device", type=torch.device, default="cuda" if torch.cuda.is_available() else "cpu"
    )
    args = parser.parse_args()
    args.device = torch.device(args.device)
    batch, classes = a_batch(args)
    size = (batch.images.shape[-2], batch.images.shape[-1])
    torch.manual_seed(0)
    model = ConsistencyNetwork(
        registry.load("backbone", args.backbone)(classes, batch.images.shape[1])
    )
    model.to(args.device)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with torch.no_grad():
        features = tuple(copy.deepcopy(model).backbone.features(batch.images).shape[-2:])
    boxes = draw_boxes(args.boxes, size)
    grids = [draw_up(box, size, features, args.device) for box in boxes]
    here = f"{args.device}, torch {torch.__version__}, {torch.get_num_threads()} threads"
    print(f"{args.backbone}, batch {args.batch}, {args.precision}, {here}")

    def sliced() -> list[Tensor]:
        return [resize_fill(batch.images, batch.previous, box) for box in boxes]

    def gathered() -> list[Tensor]:
        drawn = (draw_up(box, size, features, args.device) for box in boxes)
        return [paste(batch.images, batch.previous, grid) for grid in drawn]

    print("paste alone, images:", compare(gathered(), sliced()))
    turns: dict[str, Callable[[], object]] = {"paste, slices": sliced, "paste, grid": gathered}
    wanted, notes = None, {}
    for name, make in contestants(model, args, batch, grids[0]).items():
        try:
            contestant = make()
            found = results(contestant, batch, boxes if name.startswith("slices") else grids)
        except Exception as error:
            # A compiler or a GPU that cannot: the others are measured all the same.
            print(f"{name}: {type(error).__name__}: {str(error).splitlines()[0]}")
            continue
        wanted = wanted or found
        said = [compare(*each) for each in zip(found, wanted, strict=True)]
        notes[name] = f"losses {said[0]}, gradients {said[1]}"

        def turn(contestant: Contestant = contestant, cut: bool = name.startswith("s")) -> None:
            for box in boxes:
                where = box if cut else draw_up(box, size, features, args.device)
                contestant.step(batch, where)

        turns[name] = turn
    taken = alternate(turns, args.rounds, args.device)
    for name, seconds in taken.items():
        each = 1000 * statistics.median(seconds) / len(boxes)
        print(
            f"{name:34}{each:10.3f} ms ({1000 * min(seconds) / len(boxes):.3f} at best)  "
            f"{notes.get(name, '')}"
        )
    from torch._dynamo.utils import counters

    print(f"graphs compiled: {counters['stats'].get('unique_graphs', 0)}, for {len(boxes)} boxes")
    print(
        f"load of this machine over the last minute: {os.getloadavg()[0]:.1f} on {os.cpu_count()} "
        "cores"
    )


if __name__ == "__main__":
    main()
