"""What the paper's tables cost: trials, what they share, arithmetic, and GPU-hours at a rate that
you state.

    python -m benchmarks.cost [--tflops 30]

Arithmetic is counted, not measured: 6 operations a multiply-add of the forward pass (forward 2,
backward 4) for every training image, 2 for every test image; methods that pass it more often count
as so many (`PASSES`). The rate is what a GPU sustains on these networks, not its peak: the paper's
own 73 hours on 8 TITAN Xp for 300 epochs of ResNet-50 (Table 11) are 4.5 TFLOP/s a GPU, of a peak
of 12.
"""

import argparse
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch

from benchmarks.networks import count
from launch.paths import EXPERIMENTS
from launch.spec.load import Spec, load_spec
from launch.spec.trial import Trial
from rm import registry

IMAGES = {
    "digits": (8, 1, 1000, 797),
    "cifar10": (32, 10, 50_000, 10_000),
    "cifar100": (32, 100, 50_000, 10_000),
    "imagenet": (224, 1000, 1_281_167, 50_000),
    "tiny_imagenet": (64, 200, 100_000, 10_000),
    "cub200": (224, 200, 5_994, 5_794),
    "fgvc_aircraft": (224, 100, 6_667, 3_333),
    "stl10": (96, 10, 5_000, 8_000),
}
"""Side, classes, training and test images."""


PASSES = {"puzzlemix": 2, "comixup": 7 / 3, "automix": 3, "amix": 3, "averaged": 4 / 3}
"""A training step's arithmetic, a plain step is 1; the mix block, under 2 % of it, is left out."""
CONTRASTIVE_PASSES = {"baseline": 4 / 3, "amix_i": 10 / 3, "amix_c": 10 / 3, "puzzlemix": 10 / 3}
"""Of a contrastive step: a third for the keys of a view, and 1 for a view through q. Mixing adds
the mixed images through q (7/3), a mix block its own through k, with gradients to its masks, and
the maps of the other view; PuzzleMix its saliency.
"""
UNLABELLED = {"stl10": 100_000}
"""Images of a split without labels."""


@cache
def multiply_adds(backbone: str, side: int, classes: int) -> int:
    with torch.device("meta"):
        return count(registry.load("backbone", backbone)(classes, 3), side)[0]


DENSE = {
    "imagenet_resnet50": {
        "atss": 1105, "gfl": 1122, "mask_rcnn": 1484, "htc": 3694, "pspnet": 1123, "upernet": 1434,
        "faster_rcnn_c4": 2824,
    },
    "imagenet_pvt_v2_b1": {
        "atss": 1083, "gfl": 1101, "mask_rcnn": 1445, "htc": 3439, "pspnet": 99, "upernet": 1345
    },
}  # fmt: skip
"""10^9 operations of a step for a picture, counted once without content: COCO at 800 x 1216 with
512 regions and 128 masks, frozen parts without a backward pass; ADE20K's crops of 512 x 512. HTC
has 40 more with its semantic branch; VOC at 640 x 864. Evaluation is left out, at most 3 % of it.
"""
TRAINED_ON = {"coco": 117_266, "voc": 16_551}
"""Pictures of an epoch; of segmentation an epoch is so many steps."""


def dense_operations(values: Mapping[str, Any]) -> float:
    """Of a whole training of a detector or a segmentation network."""
    train, head = values["train"], values["head"]
    each = DENSE[values["backbone"]["name"]][head["name"]] + 40 * head.get("semantic", False)
    steps = values["task"].get("steps") or values["task"].get("iterations")
    pictures = steps * train["batch_size"] if steps else TRAINED_ON[values["dataset"]["name"]]
    return 1e9 * each * pictures * train["epochs"]


def operations(trial: Trial) -> float:
    """Floating-point operations of a whole training."""
    values = trial.values
    if "head" in values:
        return dense_operations(values)
    dataset, method, train = values["dataset"]["name"], values["method"]["name"], values["train"]
    side, classes, images, test = IMAGES[dataset]
    passes, evaluations = PASSES.get(method, 1.0), train["epochs"] / train["evaluate_every"]
    if "freeze" in values:
        passes = 1 / 3
    if values.get("task", {}).get("name") == "contrastive":
        passes, test = CONTRASTIVE_PASSES.get(method, 7 / 3), test + images
        images = UNLABELLED.get(dataset, images)
    shown = 6 * passes * images * train["epochs"] + 2 * test * evaluations
    return float(shown * multiply_adds(values["backbone"]["name"], side, classes))


def is_full_scale(spec: Spec) -> bool:
    return spec.paper is not None and not spec.metric.is_measured


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--tflops", type=float, default=30, help="what a GPU sustains (default: 30)"
    )
    rate = parser.parse_args().tflops
    seen: set[str] = set()
    total = 0.0
    print(
        f"| spec | trials | of them in specs above | PFLOP | GPU-hours at {rate:g} TFLOP/s, new "
        "ones only |\n|---|---|---|---|---|"
    )
    for path in sorted(
        EXPERIMENTS.rglob("*.yaml"),
        key=lambda path: (not path.stem.startswith("table"), path.stem),
    ):
        spec = load_spec(path)
        if not is_full_scale(spec):
            continue
        trials = {trial.id: trial for trial in spec.trials}
        new = [trial for identity, trial in trials.items() if identity not in seen]
        cost = sum(operations(trial) for trial in new)
        total += cost
        print(
            f"| {spec.name} | {len(trials)} | {len(trials) - len(new)} "
            f"| {sum(map(operations, trials.values())) / 1e15:,.0f} | "
            f"{cost / rate / 3.6e15:,.0f} |"
        )
        seen |= set(trials)
    print(f"| together | {len(seen)} | | {total / 1e15:,.0f} | {total / rate / 3.6e15:,.0f} |")


if __name__ == "__main__":
    main()
