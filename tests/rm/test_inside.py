"""The mechanism by which methods act inside a network: where, when, and with which backbones."""

import pytest
import timm
import torch
from torch import nn

from rm import registry
from rm.backbones import FeatureHooks, imagenet
from rm.backbones.densenet import DenseNet
from rm.backbones.pyramidnet import PyramidNet
from rm.backbones.resnet import resnet8
from rm.methods.cutmix_moex import CutMixMoEx
from rm.methods.dropblock import DropBlock
from rm.methods.feature_cutmix import FeatureCutMix
from rm.methods.manifold_mixup import ManifoldMixup
from rm.methods.moex import MoEx
from rm.methods.stochastic_depth import StochasticDepth
from rm.schedules import StepContext
from rm.trial import TrialError, parse_trial
from tests.support.rm.networks import batch, draws, stage_maps

INSIDE = {
    "dropblock": DropBlock,
    "stochastic_depth": StochasticDepth,
    "manifold_mixup": ManifoldMixup,
    "moex": MoEx,
    "cutmix_moex": CutMixMoEx,
    "feature_cutmix": FeatureCutMix,
}
# The smallest networks that run every line of each family, under the names that planning knows
# them by.
SMALL = {
    "resnet8": lambda: resnet8(4, 3, width=8),
    "pyramidnet200_240": lambda: PyramidNet(20, 12, 4, 3),
    "densenet121": lambda: DenseNet((2, 2, 2), 4, 4, 3),
    "imagenet_resnet50": lambda: imagenet._ResNet(
        timm.create_model("resnet50", layers=(1, 2, 1, 1), num_classes=4, zero_init_last=False)
    ),
    "imagenet_pvt_v2_b1": lambda: imagenet.imagenet_pvt_v2_b1(4, 3, drop_path_rate=0.0),
}
# Options with which a method acts in nearly every step.
ALWAYS = {
    "moex": {"probability": 1.0},
    "cutmix_moex": {"moex_probability": 1.0},
    "stochastic_depth": {"last_survival": 0.01},
}


@pytest.mark.parametrize(
    "name", [n for n, e in registry.entries("backbone").items() if e.features]
)
def test_a_backbone_has_what_its_file_says(name):
    """Names in order and maps (B, C, h, w) that get no larger; on the meta device, at real
    size.
    """
    with torch.device("meta"):
        backbone = registry.load("backbone", name)(4, 3)
        has = registry.entries("backbone")[name].features
        stages = list(backbone.named_stages())
        assert ("stem" in has) == (stages[0] == "stem")
        stages = [stage for stage in stages if stage != "stem"]
        assert stages == [f"stage{number}" for number in range(1, len(stages) + 1)]
        assert len(stages) >= 3
        maps = stage_maps(backbone, torch.empty(2, 3, 64, 96))
        sizes = [value.shape[2] for value in maps.values()]
        assert list(maps) == list(backbone.named_stages())
        assert all(
            value.ndim == 4 and 2 * value.shape[3] == 3 * value.shape[2] for value in maps.values()
        )
        assert sizes == sorted(sizes, reverse=True)
        assert maps[stages[-1]].shape[1] == backbone.num_features
        if "residual branches" in has:
            assert (
                len(backbone.residual_branches())
                == len({id(branch) for branch in backbone.residual_branches()})
                > 0
            )


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("resnet18", 8),
        ("pyramidnet200_240", 66),
        ("pyramidnet164_270", 54),
        ("imagenet_resnet50", 16),
    ],
)
def test_every_residual_branch_is_found(name, count):
    with torch.device("meta"):
        assert len(registry.load("backbone", name)(4, 3).residual_branches()) == count


@pytest.mark.parametrize("name", ["resnet8", "pyramidnet200_240", "imagenet_resnet50"])
def test_a_branch_is_all_that_is_added_to_the_shortcut(name):
    """With every branch's output zero, the blocks are their shortcuts: no weight of a branch
    changes the result.
    """
    torch.manual_seed(0)
    backbone = SMALL[name]()
    images, _ = batch(2, 32)
    hooks = FeatureHooks({str(i): branch for i, branch in enumerate(backbone.residual_branches())})
    with hooks.active(lambda _, output: torch.zeros_like(output)):
        before = backbone(images)
        for branch in backbone.residual_branches():
            for parameter in branch.parameters():
                nn.init.normal_(parameter)
        after = backbone(images)
    assert torch.equal(before, after)
    assert not torch.equal(after, backbone(images))


def test_taps_act_only_when_open_and_training():
    network = nn.Sequential(nn.Identity(), nn.Identity())
    hooks = FeatureHooks({"first": network[0]})
    x = torch.ones(2)
    assert torch.equal(network(x), x)
    with hooks.active(lambda name, value: value + len(name)):
        assert torch.equal(network(x), x + 5)
        assert torch.equal(network.eval()(x), x)
    network.train()
    assert torch.equal(network(x), x)
    with pytest.raises(ZeroDivisionError), hooks.active(lambda _, value: value / (1 // 0)):
        network(x)
    assert torch.equal(network(x), x), "an error closes them too"


@pytest.mark.cluster
def test_taps_act_in_a_compiled_network_without_compiling_again():
    from torch._dynamo.utils import counters

    counters.clear()
    torch.manual_seed(0)
    backbone = resnet8(4, 3, width=8)
    backbone.features = torch.compile(backbone.features, backend="eager")
    method = DropBlock(block_size=2)
    model = method.wrap_model(backbone)
    plain = DropBlock(block_size=2)
    torch.manual_seed(0)
    other = plain.wrap_model(resnet8(4, 3, width=8))
    images, targets = batch()
    graphs = []
    for seed in range(8):
        ours, _, *_ = method.loss(model, images, targets, StepContext(draws(seed)))
        theirs, _, *_ = plain.loss(other, images, targets, StepContext(draws(seed)))
        torch.testing.assert_close(ours, theirs)
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[-1] == graphs[1], "what is drawn is not compiled into the network"


FITTING = [
    (name, backbone)
    for name in INSIDE
    for backbone in SMALL
    if not registry.incompatibility(name, backbone)
]


@pytest.mark.parametrize(("name", "backbone_name"), FITTING)
def test_a_method_acts_in_loss_and_nowhere_else(name, backbone_name):
    """With every backbone that has what it needs: loss() changes what the network computes,
    nothing else does.
    """
    torch.manual_seed(0)
    backbone = SMALL[backbone_name]()
    for norm in (m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.momentum = 0.0  # so that two passes see the same network
    images, targets = batch(4, 32)
    plain = {mode: backbone.train(mode)(images) for mode in (True, False)}
    names = list(backbone.state_dict())
    method = INSIDE[name](**ALWAYS.get(name, {}))
    model = method.wrap_model(backbone)
    assert list(model.state_dict()) == names, "no parameters and no names of its own"
    backbone.train()
    changed = False
    for seed in range(4):
        loss, logits, *_ = method.loss(model, images, targets, StepContext(draws(seed)))
        loss.backward()
        changed |= not torch.allclose(logits, plain[True], atol=1e-4)
        assert torch.isfinite(loss)
    assert changed
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())
    for mode in (True, False):
        assert torch.equal(backbone.train(mode)(images), plain[mode])
    method.loss(model.eval(), images, targets, StepContext(draws(0)))


@pytest.mark.parametrize("name", INSIDE)
def test_the_generator_decides_everything(name):
    results = []
    for _ in range(2):
        torch.manual_seed(0)
        method = INSIDE[name]()
        model = method.wrap_model(resnet8(4, 3, width=8))
        images, targets = batch()
        torch.manual_seed(len(results))  # the global generator has no part in it
        results.append(method.loss(model, images, targets, StepContext(draws(3)))[0])
    assert torch.equal(*results)


def test_a_method_that_needs_what_a_backbone_has_not_is_refused(tiny):
    tiny |= {"method": {"name": "stochastic_depth"}, "backbone": {"name": "densenet121"}}
    with pytest.raises(TrialError) as caught:
        parse_trial(tiny)
    assert str(caught.value) == registry.incompatibility("stochastic_depth", "densenet121")
    assert str(caught.value).startswith(
        "method 'stochastic_depth' needs a backbone with residual branches; densenet121 has none; "
        "valid: imagenet_resnet101, imagenet_resnet18, "
    )


@pytest.mark.parametrize("name", registry.entries("backbone"))
def test_what_a_file_has_are_words_that_methods_can_need(name):
    known = {"stem", "stages", "residual branches"}
    assert registry.entries("backbone")[name].features <= known
    assert frozenset().union(*(registry.entry("method", m).features for m in INSIDE)) <= known
