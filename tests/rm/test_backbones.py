"""Every network of rm/backbones: exact parameter counts, the Backbone contract, what the reference
code did.
"""

import ast
import importlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import nn

from rm import backbones
from rm.backbones import Backbone, imagenet
from rm.backbones.densenet import DenseNet
from rm.backbones.pyramidnet import PyramidNet
from rm.backbones.resnet import SubsampledConv, resnet8, resnet18, resnext50_32x4d

PACKAGE = Path(backbones.__file__).parent
ROOT = PACKAGE.parents[1]


def scan() -> dict[str, tuple[str, ast.FunctionDef]]:
    """Network name -> (module name, function definition), read from the files as a torch-free
    planner would.
    """
    found = {}
    for path in sorted(PACKAGE.glob("[!_]*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                found[node.name] = (f"rm.backbones.{path.stem}", node)
    return found


NETWORKS = scan()
REQUIRED = {"timm": {"model": "resnet18"}}
"""Options without a default, and a value for each."""


def builder(name: str) -> Callable[..., Backbone]:
    return getattr(importlib.import_module(NETWORKS[name][0]), name)


def on_meta(name: str, num_classes: int, in_channels: int) -> Backbone:
    with torch.device("meta"):
        return builder(name)(num_classes, in_channels, **REQUIRED.get(name, {}))


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


# The small networks share every line with the large ones, so that values can be checked at little
# cost.
SMALL: dict[str, Callable[[], Backbone]] = {
    "resnet": lambda: resnet8(5, 3, width=8),
    "resnext": lambda: resnext50_32x4d(5, 3),
    "pyramidnet": lambda: PyramidNet(20, 24, 5, 3),
    "densenet": lambda: DenseNet((2, 3, 2), 8, 5, 3),
    "timm resnet": lambda: imagenet.imagenet_resnet50(5, 3),
    "timm pvt": lambda: imagenet.imagenet_pvt_v2_b1(5, 3),
}


@pytest.fixture(scope="module", params=SMALL)
def small(request: pytest.FixtureRequest) -> Backbone:
    torch.manual_seed(0)
    return SMALL[request.param]().eval()


@pytest.mark.parametrize(
    ("name", "num_classes", "plain", "two_heads"),
    [
        ("pyramidnet200_240", 10, 26_752_702, 26_762_952),
        ("pyramidnet164_270", 100, 27_319_071, 27_433_571),
        ("resnet18", 100, 11_220_132, 11_271_432),
        ("resnet34", 100, 21_328_292, 21_379_592),
        ("densenet121", 100, 7_048_548, 7_151_048),
        ("densenet161", 100, 26_681_188, 26_902_088),
        ("imagenet_resnet50", 1000, 25_557_032, 27_606_032),
        ("imagenet_pvt_v2_b1", 1000, 14_009_000, 14_522_000),
        # Not in the paper: ResNet-8 is counted by hand, the rest are torchvision's, the CIFAR ones
        # less 7,680 in the stem (7x7 -> 3x3) and 1,844,100 in the head (1000 -> 100 classes).
        ("resnet8", 10, 78_042, 78_692),
        ("resnet50", 100, 23_705_252, 23_910_152),
        ("resnext50_32x4d", 100, 23_177_124, 23_382_024),
        ("imagenet_resnet18", 1000, 11_689_512, 12_202_512),
        ("imagenet_resnet34", 1000, 21_797_672, 22_310_672),
        ("imagenet_resnet101", 1000, 44_549_160, 46_598_160),
        ("imagenet_resnext50_32x4d", 1000, 25_028_904, 27_077_904),
    ],
)
def test_parameter_counts_are_exact(
    name: str, num_classes: int, plain: int, two_heads: int
) -> None:
    network = on_meta(name, num_classes, 3)
    second_head = nn.Linear(network.num_features, num_classes, device="meta")
    assert parameters(network) == plain
    assert parameters(network) + parameters(second_head) == two_heads


@pytest.mark.parametrize("name", NETWORKS)
def test_signature_can_be_read_without_importing(name: str) -> None:
    _, node = NETWORKS[name]
    arguments = node.args
    assert [(a.arg, ast.unparse(a.annotation)) for a in arguments.args if a.annotation] == [
        ("num_classes", "int"),
        ("in_channels", "int"),
    ]
    assert [arguments.posonlyargs, arguments.defaults, arguments.vararg, arguments.kwarg] == [
        [],
        [],
        None,
        None,
    ]
    assert node.returns is not None
    assert ast.unparse(node.returns) == "Backbone"
    assert ast.get_docstring(node)
    for option, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        assert option.annotation is not None
        assert ast.unparse(option.annotation).split("[")[0] in {
            "int",
            "float",
            "bool",
            "str",
            "Literal",
            "Annotated",
        }
        assert (default is None) == (option.arg in REQUIRED.get(name, {}))
        if default is not None:
            ast.literal_eval(default)


@pytest.mark.parametrize("in_channels", [1, 3])
@pytest.mark.parametrize("name", NETWORKS)
def test_contract(name: str, in_channels: int) -> None:
    network = on_meta(name, 7, in_channels)
    assert isinstance(network, Backbone)
    assert type(network.head) is nn.Linear
    assert (network.head.in_features, network.head.out_features) == (network.num_features, 7)
    assert len(network.state_dict()) == len(
        {id(v) for v in network.state_dict(keep_vars=True).values()}
    )
    first = next(m for m in network.modules() if isinstance(m, nn.Conv2d))
    assert first.in_channels == in_channels


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("resnet8", (32, 32), (64, 8, 8)),
        ("resnet18", (32, 32), (512, 4, 4)),
        ("resnet34", (64, 32), (512, 8, 4)),
        ("resnet50", (32, 48), (2048, 4, 6)),
        ("resnext50_32x4d", (32, 32), (2048, 4, 4)),
        ("pyramidnet200_240", (32, 32), (1024, 8, 8)),
        ("pyramidnet164_270", (32, 40), (1144, 8, 10)),
        ("densenet121", (32, 32), (1024, 4, 4)),
        ("densenet161", (48, 32), (2208, 6, 4)),
        ("imagenet_resnet18", (224, 224), (512, 7, 7)),
        ("imagenet_resnet34", (96, 224), (512, 3, 7)),
        ("imagenet_resnet50", (224, 224), (2048, 7, 7)),
        ("imagenet_resnet101", (224, 160), (2048, 7, 5)),
        ("imagenet_resnext50_32x4d", (224, 224), (2048, 7, 7)),
        ("imagenet_pvt_v2_b1", (224, 160), (512, 7, 5)),
    ],
)
def test_last_map(name: str, size: tuple[int, int], expected: tuple[int, int, int]) -> None:
    features = on_meta(name, 7, 3).features(torch.empty(2, 3, *size, device="meta"))
    assert features.shape == (2, *expected)


def test_every_network_has_its_count_and_map_checked() -> None:
    for test in (test_parameter_counts_are_exact, test_last_map):
        (mark,) = test.pytestmark
        assert {case[0] for case in mark.args[1]} == set(NETWORKS) - set(REQUIRED)


@torch.no_grad()
def test_forward_is_head_of_pooled_features(small: Backbone) -> None:
    images = torch.randn(2, 3, 32, 64)
    features = small.features(images)
    assert features.shape[:2] == (2, small.num_features)
    assert features.shape[3] == 2 * features.shape[2]
    assert torch.equal(small.head(small.pool(features)), small(images))
    assert small(images).shape == (2, 5)


@torch.no_grad()
def test_channels_last_changes_nothing_but_the_layout(small: Backbone) -> None:
    images = torch.randn(2, 3, 32, 64)
    expected = small(images)
    small.to(memory_format=torch.channels_last)
    features = small.features(images.contiguous(memory_format=torch.channels_last))
    logits = small.head(small.pool(features))
    small.to(memory_format=torch.contiguous_format)
    transformer = any(isinstance(m, nn.LayerNorm) for m in small.modules())
    if not transformer:  # whose tokens timm lays out as channels-first maps after every stage
        assert features.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["resnet", "pyramidnet", "densenet"])
def test_gradients_reach_every_parameter_once_each_for_both_heads(name: str) -> None:
    torch.manual_seed(0)
    network = SMALL[name]()
    features = network.features(torch.randn(4, 3, 8, 12))
    region = features[:, :, :1].mean(
        (2, 3)
    )  # a region loss reads the same map again: nothing may overwrite it
    (network.head(network.pool(features)).square().sum() + region.sum()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())


def test_densenet_transitions_have_no_relu() -> None:
    network = DenseNet((2, 2), 4, 5, 3)
    assert [type(m) for m in network.blocks[1]] == [nn.BatchNorm2d, nn.Conv2d, nn.AvgPool2d]


@pytest.mark.parametrize("name", ["resnet50", "resnet101", "resnext50_32x4d", "pvt_v2_b1"])
def test_names_are_timms_and_torchvisions(name: str) -> None:
    state = on_meta(f"imagenet_{name}", 11, 3).plain_state_dict()
    with torch.device("meta"):
        plain = [timm.create_model(name, num_classes=11)]
        if "pvt" not in name:
            plain.append(torchvision.models.get_model(name, num_classes=11))
    for network in plain:
        network.load_state_dict(state, strict=True, assign=True)


@torch.no_grad()
@pytest.mark.parametrize("name", ["resnet50", "pvt_v2_b1"])
def test_exported_network_computes_the_same(name: str) -> None:
    torch.manual_seed(0)
    ours = getattr(imagenet, f"imagenet_{name}")(5, 3).eval()
    plain = [timm.create_model(name, num_classes=5)]
    if name == "resnet50":
        plain.append(torchvision.models.resnet50(num_classes=5))
    images = torch.randn(2, 3, 32, 64)
    for network in plain:
        network.load_state_dict(ours.plain_state_dict(), strict=True)
        torch.testing.assert_close(network.eval()(images), ours(images), rtol=1e-4, atol=1e-5)


def test_imagenet_resnets_do_not_start_at_zero() -> None:
    norms = [
        m for m in imagenet.imagenet_resnet50(5, 3).modules() if isinstance(m, nn.BatchNorm2d)
    ]
    assert all(torch.equal(norm.weight, torch.ones_like(norm.weight)) for norm in norms)


def test_cifar_resnet_keeps_pytorchs_initialisation() -> None:
    torch.manual_seed(0)
    network = resnet18(10, 3)
    torch.manual_seed(0)
    assert torch.equal(network.stem[0].weight, nn.Conv2d(3, 64, 3, padding=1, bias=False).weight)


def test_importing_the_file_does_not_import_timm() -> None:
    code = "import sys, rm.backbones.imagenet; sys.exit('timm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_a_narrow_resnet_is_kept_from_torchs_strided_pointwise_convolution():
    narrow = [m for m in resnet8(4, 3, width=4).modules() if isinstance(m, SubsampledConv)]
    assert [conv.in_channels for conv in narrow] == [4, 8]
    assert not any(isinstance(m, SubsampledConv) for m in resnet18(4, 3).modules())
    ours = narrow[0].double()
    theirs = nn.Conv2d(4, 8, 1, stride=2, bias=False).double()
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(3, 4, 7, 6, dtype=torch.float64)  # not channels-last: both are safe
    torch.testing.assert_close(ours(images), theirs(images))
    for conv in (ours, theirs):
        conv(images).square().sum().backward()
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad)
