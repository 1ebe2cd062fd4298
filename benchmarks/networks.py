"""Parameters, multiply-adds and activations of every backbone, beside what the paper and its code
state.

    python -m benchmarks.networks

Nothing is computed: the networks run on torch's meta device. Multiply-adds are half of torch's own
flop count; activations are the outputs of convolutions and linear layers, in numbers an image, the
usual count for comparing networks. Counters that add batch norm and pooling, as the 4.12 G of the
paper's Table 11 does for ResNet-50, come out one per cent higher.
"""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from rm import registry
from rm.backbones import Backbone
from rm.methods._consistency import ConsistencyNetwork

# (classes, parameters, with the second head), millions of multiply-adds: of code and paper's
# Table 11
STATED = {
    "pyramidnet200_240": (10, 26_752_702, 26_762_952, None),
    "pyramidnet164_270": (100, 27_319_071, 27_433_571, None),
    "resnet18": (100, 11_220_132, 11_271_432, None),
    "resnet34": (100, 21_328_292, 21_379_592, None),
    "densenet121": (100, 7_048_548, 7_151_048, None),
    "densenet161": (100, 26_681_188, 26_902_088, None),
    "imagenet_resnet50": (1000, 25_557_032, 27_606_032, 4_120),
    "imagenet_pvt_v2_b1": (1000, 14_009_000, 14_522_000, None),
}


def count(backbone: Backbone, size: int) -> tuple[int, int]:
    """(multiply-adds, activations) for one image of size x size."""
    seen: list[int] = []
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(
                lambda module, inputs, output: seen.append(output.numel())
            )
    with FlopCounterMode(display=False) as flops, torch.no_grad():
        backbone.eval()(torch.empty(1, 3, size, size, device="meta"))
    return flops.get_total_flops() // 2, sum(seen)


def main() -> None:
    """The command."""
    print(
        f"{'backbone':26}{'K':>5}{'px':>5}{'parameters':>13}{'+ 2nd head':>12}{'M mult-adds':>13}"
        f"{'M activ.':>10}  stated"
    )
    for name in sorted(set(registry.entries("backbone")) - {"timm"}):  # that one is many
        classes, *stated = STATED.get(
            name, (1000 if name.startswith("imagenet_") else 100, None, None, None)
        )
        size = 224 if name.startswith("imagenet_") else 32
        with torch.device("meta"):
            backbone: Backbone = registry.load("backbone", name)(classes, 3)
            plain = sum(p.numel() for p in backbone.parameters())
            both = sum(p.numel() for p in ConsistencyNetwork(backbone).parameters())
        macs, activations = count(backbone, size)
        words = [f"{value:,}" for value in stated[:2] if value] + [
            f"{value:,} M" for value in stated[2:] if value
        ]
        agrees = (
            ""
            if stated[0] is None
            else " (equal)"
            if stated[:2] == [plain, both]
            else " (NOT equal)"
        )
        line = f"{name:26}{classes:5}{size:5}{plain:13,}{both:12,}"
        line += f"{macs / 1e6:13,.1f}{activations / 1e6:10.2f}"
        print(f"{line}  {' / '.join(words)}{agrees}")


if __name__ == "__main__":
    main()
