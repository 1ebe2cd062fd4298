"""The heads are OpenMMLab's stock ones, on our backbones and with the operators of the stub."""

import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from rm import registry
from rm.dense import ops_stub
from rm.dense.maps import Maps
from rm.dense.models import DenseModel
from rm.trial import TrialError

STOCK = {
    "atss": ("mmdet", "atss/atss_r50_fpn_1x_coco.py"),
    "faster_rcnn_c4": ("mmdet", "_base_/models/faster-rcnn_r50-caffe-c4.py"),
    "gfl": ("mmdet", "gfl/gfl_r50_fpn_1x_coco.py"),
    "mask_rcnn": ("mmdet", "mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py"),
    "htc": ("mmdet", "htc/htc-without-semantic_r50_fpn_1x_coco.py"),
    "htc, semantic": ("mmdet", "htc/htc_r50_fpn_1x_coco.py"),
    "pspnet": ("mmseg", "pspnet/pspnet_r50-d8_4xb4-80k_ade20k-512x512.py"),
    "upernet": ("mmseg", "upernet/upernet_r50_4xb4-80k_ade20k-512x512.py"),
}
CHANNELS = [256, 512, 1024, 2048]


def head(name):
    name, _, semantic = name.partition(", ")
    options = {"semantic": True} if semantic else {}
    return name, {"extra_norm": False} if name == "faster_rcnn_c4" else options


def ours(name, channels=CHANNELS):
    name, options = head(name)
    classes = 80 if STOCK[name][0] == "mmdet" else 150
    return registry.load("head", name)(channels, classes, **options)


def stock(name):
    import importlib.util

    from mmengine import Config

    package, file = STOCK[name]
    place = Path(importlib.util.find_spec(package).origin).parent / ".mim" / "configs"
    return Config.fromfile(place / file).model.to_dict()


def leaves(value, prefix=""):
    """Dotted key -> plain value; SyncBN of several devices is BN of one."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        if isinstance(item, dict) or (
            isinstance(item, list) and item and isinstance(item[0], dict)
        ):
            yield from leaves(item, f"{prefix}{key}.")
        else:
            plain = list(item) if isinstance(item, tuple) else item
            yield (
                f"{prefix}{key}",
                {"SyncBN": "BN"}.get(plain, plain) if isinstance(plain, str) else plain,
            )


@pytest.mark.parametrize("name", STOCK)
def test_a_head_is_the_stock_one(name):
    """But for the backbone, which is put in later, and what is the stock's default anyhow."""
    theirs, own = dict(leaves(stock(name))), dict(leaves(ours(name)))
    differ = {key for key in theirs.keys() | own.keys() if theirs.get(key) != own.get(key)}
    parts = ("backbone.", "roi_head.shared_head.")  # which is ours, too
    differ = {key for key in differ if not key.startswith(parts)}
    listed = {
        "atss": {f"bbox_head.norm_cfg.{key}" for key in ("type", "num_groups", "requires_grad")},
        "gfl": {f"bbox_head.norm_cfg.{key}" for key in ("type", "num_groups", "requires_grad")},
        "faster_rcnn_c4": {  # stock: weights of Caffe, and their pixels
            f"data_preprocessor.{key}" for key in ("mean", "std", "bgr_to_rgb")
        },
        # stock: 'open-mmlab://resnet50_v1c'; the size is the data set's crop
        "pspnet": {"pretrained", "data_preprocessor.size"},
        "upernet": {"pretrained", "data_preprocessor.size"},
    }
    assert differ == listed.get(name, set())


def build(name, network="imagenet_resnet50", **options):
    with torch.device("meta"):
        maps = Maps(registry.load("backbone", network)(1, 3, **options), 0, False)
        return DenseModel(STOCK[name][0]).build(ours(name, maps.channels), maps)


@pytest.mark.parametrize("name", STOCK)
def test_a_network_has_the_stock_ones_parameters(name):
    """To the last one, by name and shape; of segmentation the stock has another stem (V1c)."""
    import mmengine
    from mmengine.registry import DefaultScope

    built = build(name)
    config = mmengine.ConfigDict(stock(name))
    config.backbone.type = "ResNet"
    config.backbone.pop("init_cfg", None)
    if name == "faster_rcnn_c4":
        config.roi_head.shared_head.pop("init_cfg")
    config.pop("pretrained", None)
    package = STOCK[name][0]
    models = sys.modules[f"{package}.registry"].MODELS
    with torch.device("meta"), DefaultScope.overwrite_default_scope(package):
        theirs = {n: p.shape for n, p in models.build(config).named_parameters()}
    mine = {
        n.replace("backbone.network.", "backbone."): p.shape for n, p in built.named_parameters()
    }
    assert mine == theirs
    millions = {"atss": 32.3, "faster_rcnn_c4": 33.8, "gfl": 32.4, "mask_rcnn": 44.4,
                "htc, semantic": 80.3, "pspnet": 49.1, "upernet": 66.5}  # fmt: skip
    count = sum(shape.numel() for shape in mine.values())
    assert round(count / 1e6, 1) == millions.get(name, round(count / 1e6, 1))


@pytest.mark.parametrize(
    ("name", "millions"),
    [("atss", 21.6), ("gfl", 21.8), ("mask_rcnn", 33.7), ("htc", 66.7), ("pspnet", 27.2),
     ("upernet", 44.0)],
)  # fmt: skip
def test_parameters_with_the_pyramid_vision_transformer(name, millions):
    count = sum(p.numel() for p in build(name, "imagenet_pvt_v2_b1").parameters())
    assert round(count / 1e6, 1) == millions


@pytest.fixture(scope="module")
def resnet():
    """OpenMMLab's, with random weights, and its names are ours."""
    import mmengine

    DenseModel("mmdet").build(ours("atss"), Maps(_backbone(), 0, False))
    from mmdet.registry import MODELS

    torch.manual_seed(1)
    config = {"type": "mmdet.ResNet", "depth": 50, "style": "pytorch"}
    network = MODELS.build(mmengine.ConfigDict(config))
    network.eval()  # which returns nothing
    return network


def _backbone(**options):
    return registry.load("backbone", "imagenet_resnet50")(1, 3, **options)


def test_maps_are_openmmlabs_to_the_bit(resnet):
    torch.manual_seed(2)
    images = torch.randn(1, 3, 64, 96)
    backbone = _backbone()
    missing = backbone.network.load_state_dict(resnet.state_dict(), strict=False)
    assert missing.missing_keys == missing.unexpected_keys == []
    maps = Maps(backbone, 1, True).eval()
    with torch.inference_mode():
        found, expected = maps(images), resnet(images)
        assert torch.equal(found[3], backbone.eval().features(images))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert [tuple(m.shape[1:]) for m in found] == [
        (256, 16, 24), (512, 8, 12), (1024, 4, 6), (2048, 2, 3)
    ]  # fmt: skip


def test_a_dilated_network_is_openmmlabs_to_the_bit(resnet):
    import mmengine
    import mmseg.models  # noqa: F401
    from mmseg.registry import MODELS

    config = {"type": "mmseg.ResNet", "depth": 50, "style": "pytorch", "contract_dilation": True,
              "dilations": (1, 1, 2, 4), "strides": (1, 2, 1, 1)}  # fmt: skip
    theirs = MODELS.build(mmengine.ConfigDict(config))
    theirs.eval()
    theirs.load_state_dict(resnet.state_dict())
    backbone = _backbone(output_stride=8)
    backbone.network.load_state_dict(resnet.state_dict(), strict=False)
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        found, expected = Maps(backbone, 0, False).eval()(images), theirs(images)
    assert found[3].shape == (1, 2048, 8, 8)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_frozen_parts_stay_as_they_are():
    maps = Maps(registry.load("backbone", "timm")(1, 3, model="test_resnet"), 1, True)
    before = {name: value.clone() for name, value in maps.state_dict().items()}
    maps.train()
    optimizer = torch.optim.SGD([p for p in maps.parameters() if p.requires_grad], 0.1)
    for _ in range(3):
        sum(m.square().mean() for m in maps(torch.randn(2, 3, 64, 64))).backward()
        optimizer.step()
    after = maps.state_dict()
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert moved
    assert not any(
        name.startswith(("network.conv1", "network.bn1", "network.layer1")) or "running" in name
        for name in moved
    )


def test_what_has_no_four_maps_is_refused():
    with pytest.raises(TrialError, match="none of timm's"):
        Maps(registry.load("backbone", "resnet8")(10, 3, width=8), 0, False)
    with pytest.raises(TrialError, match="frozen_stages is for ResNets"):
        Maps(registry.load("backbone", "imagenet_pvt_v2_b1")(10, 3), 1, False)


def test_region_features_are_torchvisions():
    from mmcv.ops import RoIAlign
    from torchvision.ops import roi_align

    torch.manual_seed(0)
    features = torch.randn(2, 3, 9, 11, dtype=torch.float64, requires_grad=True)
    rois = torch.tensor([[0, 1.0, 2.0, 30.0, 33.0], [1, 5.5, 0.0, 40.0, 20.0]]).double()
    weights = torch.randn(2, 3, 7, 7, dtype=torch.float64)
    found = RoIAlign(7, 0.25, 0)(features, rois)
    (gradient,) = torch.autograd.grad((found * weights).sum(), features)
    expected = roi_align(features, rois, (7, 7), 0.25, -1, True)
    (other,) = torch.autograd.grad((expected * weights).sum(), features)
    assert torch.allclose(found, expected, atol=1e-12)
    assert torch.allclose(gradient, other, atol=1e-12)


def test_the_focal_loss_is_mmdets_own_in_python():
    """Called as mmdet calls it on GPUs."""
    from mmcv.ops import sigmoid_focal_loss
    from mmdet.models.losses.focal_loss import py_sigmoid_focal_loss

    torch.manual_seed(0)
    logits = (3 * torch.randn(20, 5, dtype=torch.float64)).requires_grad_()
    classes = torch.randint(6, (20,))  # 5 is the background
    found = sigmoid_focal_loss(logits, classes, 2.0, 0.25, None, "none").sum()
    targets = F.one_hot(classes, 6)[:, :5]
    expected = py_sigmoid_focal_loss(logits, targets, None, 2.0, 0.25, "sum", None)
    assert torch.allclose(found, expected, rtol=1e-12)
    gradients = [torch.autograd.grad(loss, logits)[0] for loss in (found, expected)]
    assert torch.allclose(*gradients, atol=1e-12)


def test_any_other_operator_says_its_name():
    ops_stub.install()
    operators = sys.modules["mmcv._ext"]
    with pytest.raises(NotImplementedError, match=r"mmcv\._ext\.ms_deform_attn_forward is"):
        operators.ms_deform_attn_forward()
    with pytest.raises(NotImplementedError, match="max pooling"):
        ops_stub.roi_align_forward(
            *[torch.empty(0)] * 5, aligned_height=1, aligned_width=1, spatial_scale=1.0,
            sampling_ratio=0, pool_mode=0, aligned=True,
        )  # fmt: skip
    boxes = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 5], [9, 9, 12, 12]])
    kept = operators.nms(boxes, torch.tensor([0.5, 0.9, 0.1]), iou_threshold=0.5, offset=0)
    assert kept.tolist() == [1, 2]
    with pytest.raises(NotImplementedError, match="offset"):
        operators.nms(boxes, boxes[:, 0], iou_threshold=0.5, offset=1)
