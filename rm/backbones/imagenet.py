"""ImageNet networks, taken from timm; last map 7x7 at 224 px.

timm is imported when a network is built and not before, so that scanning this file stays cheap.
"""

from typing import Any, Literal

from torch import Tensor, nn

from rm.backbones import Backbone
from rm.backbones._start import started

FEATURES = {
    "imagenet_resnet18": ("stem", "stages", "residual branches"),
    "imagenet_resnet34": ("stem", "stages", "residual branches"),
    "imagenet_resnet50": ("stem", "stages", "residual branches"),
    "imagenet_resnet101": ("stem", "stages", "residual branches"),
    "imagenet_resnext50_32x4d": ("stem", "stages", "residual branches"),
    # Its patch embedding is layer-normalised tokens, no map, and its branches have a drop path of
    # their own.
    "imagenet_pvt_v2_b1": ("stages",),
}

WEIGHTLESS = ("drop_path_rate", "output_stride")


class TimmBackbone(Backbone):
    """A timm classifier split into its feature extractor (`network`) and its last linear layer
    (`head`).

    The classifier is moved out of `network`, not shared with it, so that every parameter has
    exactly one name.
    """

    network: (
        Any  # a timm model: an nn.Module with forward_features(), num_features and default_cfg
    )

    def __init__(self, network: Any) -> None:
        super().__init__()
        self._classifier: str = network.default_cfg["classifier"]
        self.num_features = network.num_features
        self.head = getattr(network, self._classifier)
        setattr(network, self._classifier, nn.Identity())
        self.network = network

    def features(self, images: Tensor) -> Tensor:
        out: Tensor = self.network.forward_features(images)
        return out

    def plain_name(self, name: str) -> str:
        """Timm's: loads strictly into timm.create_model(name, num_classes=K). The ResNets' names
        are torchvision's too.
        """
        if name.startswith("head."):
            return f"{self._classifier}.{name.removeprefix('head.')}"
        return name.removeprefix("network.")


class _ResNet(TimmBackbone):
    """timm's ResNet family."""

    def named_stages(self) -> dict[str, nn.Module]:
        # The stem ends with max-pooling, as in the paper's and MoEx's networks.
        return {
            "stem": self.network.maxpool,
            **{f"stage{n}": getattr(self.network, f"layer{n}") for n in (1, 2, 3, 4)},
        }

    def residual_branches(self) -> list[nn.Module]:
        blocks = (block for n in (1, 2, 3, 4) for block in getattr(self.network, f"layer{n}"))
        # The last thing before the sum: no squeeze-excitation, no drop path.
        return [getattr(block, "bn3", block.bn2) for block in blocks]


class _PVT(TimmBackbone):
    """timm's pyramid vision transformers; a stage ends with a map."""

    def named_stages(self) -> dict[str, nn.Module]:
        return {f"stage{number}": stage for number, stage in enumerate(self.network.stages, 1)}


def imagenet_resnet18(
    num_classes: int, in_channels: int, *, start: Literal["torch", "openmixup"] = "torch"
) -> Backbone:
    """ImageNet ResNet-18: last map (B, 512, 7, 7) at 224 px.

    Source: He et al., CVPR 2016, as in torchvision.
    """
    return started(_resnet("resnet18", num_classes, in_channels), start)


def imagenet_resnet34(
    num_classes: int, in_channels: int, *, start: Literal["torch", "openmixup"] = "torch"
) -> Backbone:
    """ImageNet ResNet-34: last map (B, 512, 7, 7) at 224 px.

    Source: He et al., CVPR 2016, as in torchvision.
    """
    return started(_resnet("resnet34", num_classes, in_channels), start)


def imagenet_resnet50(
    num_classes: int,
    in_channels: int,
    *,
    output_stride: Literal[8, 16, 32] = 32,
    start: Literal["torch", "openmixup"] = "torch",
) -> Backbone:
    """ImageNet ResNet-50: last map (B, 2048, 7, 7) at 224 px.

    output_stride   of the last map; below 32 the last stages are dilated instead (PSPNet: 8)
    Source: He et al., CVPR 2016, with the stride in the 3x3 convolution, as in torchvision and the
    released code.
    """
    network = _resnet("resnet50", num_classes, in_channels, output_stride=output_stride)
    return started(network, start)


def imagenet_resnet101(
    num_classes: int, in_channels: int, *, start: Literal["torch", "openmixup"] = "torch"
) -> Backbone:
    """ImageNet ResNet-101: last map (B, 2048, 7, 7) at 224 px.

    Source: He et al., CVPR 2016, with the stride in the 3x3 convolution, as in torchvision and the
    released code.
    """
    return started(_resnet("resnet101", num_classes, in_channels), start)


def imagenet_resnext50_32x4d(
    num_classes: int, in_channels: int, *, start: Literal["torch", "openmixup"] = "torch"
) -> Backbone:
    """ImageNet ResNeXt-50 (32x4d): last map (B, 2048, 7, 7) at 224 px.

    Source: Xie et al., CVPR 2017, as in torchvision and the released code.
    """
    return started(_resnet("resnext50_32x4d", num_classes, in_channels), start)


def imagenet_pvt_v2_b1(
    num_classes: int, in_channels: int, *, drop_path_rate: float = 0.1
) -> Backbone:
    """PVTv2-B1: last map (B, 512, 7, 7) at 224 px.

    Source: Wang et al., CVMJ 2022; drop_path_rate 0.1 is that of PVTv2's own ImageNet recipe,
    timm's default is 0.
    """
    return _PVT(_timm("pvt_v2_b1", num_classes, in_channels, drop_path_rate=drop_path_rate))


def _resnet(name: str, num_classes: int, in_channels: int, **options: Any) -> TimmBackbone:
    # timm would start every residual branch at zero; the released code, like torchvision, does
    # not.
    return _ResNet(_timm(name, num_classes, in_channels, zero_init_last=False, **options))


def _timm(name: str, num_classes: int, in_channels: int, **options: Any) -> Any:
    import timm

    return timm.create_model(
        name, pretrained=False, num_classes=num_classes, in_chans=in_channels, **options
    )
