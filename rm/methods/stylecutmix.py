"""StyleCutMix: CutMix of two images' contents and, apart from them, of their styles (Hong et al.,
CVPR 2021).

x1 in a box, x2 around it, each partly in the other's style: inside rs x1 + (1 - rs) x12, outside
(1 - rs) x2 + rs x21, where x12 = g x1 + (1 - g) AdaIN(x1, x2) and x21 likewise. Label weight of
x1: r l + (1 - r) ls with l the box's share of the area and ls = g l + (1 - g) rs. After
alsdml/StyleMix, `train.py`, `net_cutmix.py`: box area and rs ~ Beta(alpha, alpha), one of each and
one permutation a batch, everything at 224 px (bilinear up and down) on normalised images.

g = tanh(d / delta) per pair (`gamma: auto`, "Auto_Gamma"), where d is the distance of the two
classes' mean styles, plus 2 for a class to itself: the authors' table, file
`styleDistanceMatrix10` or `styleDistanceMatrix100` of their repository. Without it g ~
Beta(style_alpha, style_alpha), one a batch (`gamma: random`).

Needs `vgg_normalised.pth`, `decoder.pth.tar`, by the names that StyleMix's train.py has for them,
and, for `auto`, the table, in one folder. Its repository has neither file and does not say whence
they are; that they are pytorch-AdaIN's, `decoder.pth` under another name, is a guess. They were
out of reach where this was written: the SHA-256 below are what several unrelated repositories
state for that release's files, and a file is checked only where a spec gives one.

Cost: a VGG-19 pass to relu4_1 and two decodings at 224 px in every mixed batch, many times a CIFAR
network's own step.

Row of the RecursiveMix paper (auto-gamma, CIFAR-10, PyramidNet-200): the defaults; CIFAR-100 has
delta 3.
"""

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rm.backbones import Backbone
from rm.datasets import DataError, data_dir
from rm.methods import Method, Mixed, draw_partner
from rm.methods._style import StyleTransfer, load_style_transfer
from rm.ops import Box, mixed_area, sample_box
from rm.schedules import StepContext

TASKS = ("classification",)
REQUIRES_FILES = {
    "weights": {
        "vgg_normalised.pth": "https://github.com/naoto0804/pytorch-AdaIN/releases/download/"
        "v0.0.0/vgg_normalised.pth (SHA-256, as other repositories state it: "
        "804ca2835ecf7539f0cd2a7ac3c18ce81e6f8468969ae7117ac0c148d286bb4a)",
        "decoder.pth.tar": "https://github.com/naoto0804/pytorch-AdaIN/releases/download/"
        "v0.0.0/decoder.pth (SHA-256, as other repositories state it: "
        "379ca41d59f3a37eed3599bbbc2560c19da5c458870a5ffd3a9dd41aa88f9472)",
    }
}
"""Option -> the files that must lie in the folder it names (empty: $RM_DATA_DIR/<method>) before a
trial can start, and whence.
"""


class StyleCutMix(Method):
    """Options by their official names, where those differ.

    weights                      folder of the networks and the table; empty:
                                 $RM_DATA_DIR/stylecutmix
    vgg_sha256, decoder_sha256   checked where given
    gamma                        where g comes from
    delta                        of gamma: auto
    style_alpha                  of gamma: random (alpha2)
    alpha                        of the Beta distribution of the box and of rs (alpha1)
    content_weight               r
    probability                  of mixing a batch (prob)
    resolution                   side in pixels at which styles are transferred
    """

    def __init__(
        self,
        *,
        weights: str = "",
        vgg_sha256: str = "",
        decoder_sha256: str = "",
        gamma: Literal["auto", "random"] = "auto",
        delta: Annotated[float, "delta > 0"] = 1.0,
        style_alpha: Annotated[float, "style_alpha > 0"] = 0.8,
        alpha: Annotated[float, "alpha > 0"] = 1.0,
        content_weight: Annotated[float, "0 <= content_weight <= 1"] = 0.7,
        probability: Annotated[float, "0 <= probability <= 1"] = 0.5,
        resolution: Annotated[int, "resolution >= 16 and resolution % 8 == 0"] = 224,
    ) -> None:
        super().__init__()
        self.folder = Path(weights).expanduser() if weights else data_dir() / "stylecutmix"
        self.digests = vgg_sha256, decoder_sha256
        self.gamma, self.delta, self.style_alpha = gamma, delta, style_alpha
        self.alpha, self.content_weight, self.probability = alpha, content_weight, probability
        self.resolution = resolution
        self._style: list[StyleTransfer] = []  # in a list: no part of what is trained and saved
        self.distances: Tensor | None = None

    def wrap_model(self, backbone: Backbone) -> nn.Module:
        """The backbone alone; the style networks are read here, and stay out of what is trained
        and saved.
        """
        self._style = [load_style_transfer(self.folder, REQUIRES_FILES["weights"], *self.digests)]
        if self.gamma == "auto":
            self.distances = load_distances(self.folder, backbone.head.out_features)
        return backbone

    def mix(
        self, images: Tensor, targets: Tensor, step: StepContext, model: nn.Module | None = None
    ) -> Mixed:
        generator = step.generator
        if generator.random() >= self.probability:
            return Mixed(images, targets, logs={"area": 0.0})
        partner = draw_partner(images, generator)
        kept = self._kept(targets, targets[partner], generator)
        own_style = float(generator.beta(self.alpha, self.alpha))
        size = (self.resolution, self.resolution)
        box = sample_box(size, float(generator.beta(self.alpha, self.alpha)), generator)
        area = mixed_area(box, size)
        images = self.mixed(images, partner, kept, own_style, box)
        style_share = kept * area + (1 - kept) * own_style
        share = self.content_weight * area + (1 - self.content_weight) * style_share
        targets = share[:, None] * targets + (1 - share[:, None]) * targets[partner]
        return Mixed(images, targets, partner, 1 - share, {"area": 1 - area})

    @property
    def style(self) -> StyleTransfer:
        """The style networks."""
        if not self._style:
            raise RuntimeError("StyleCutMix has no style networks: wrap_model() was not called")
        return self._style[0]

    def _kept(self, own: Tensor, other: Tensor, generator: np.random.Generator) -> Tensor:
        """g of each pair: how much of an image stays as it is where it takes the other's style;
        (B,).
        """
        if self.gamma == "random":
            return own.new_full((len(own),), generator.beta(self.style_alpha, self.style_alpha))
        if self.distances is None:
            raise RuntimeError("StyleCutMix has no style distances: wrap_model() was not called")
        self.distances = self.distances.to(own.device)
        return torch.tanh(self.distances[own.argmax(1), other.argmax(1)] / self.delta).to(
            own.dtype
        )

    @torch.no_grad()
    def mixed(
        self, images: Tensor, partner: Tensor, kept: Tensor, own_style: float, box: Box
    ) -> Tensor:
        """The mixed images.

        images      (B, C, H, W)   normalised; grey ones (C = 1) are shown to VGG as three equal
                    channels (ours)
        partner     (B,)
        kept        (B,)           g
        own_style   rs
        box         of resolution x resolution pixels: where the content is the image's own
        returns     (B, C, H, W)
        """
        style = self.style.to(images.device)
        size = (self.resolution, self.resolution)
        own = F.interpolate(images.expand(-1, 3, -1, -1), size=size, mode="bilinear")
        features, kept = style.encode(own), kept[:, None, None, None]
        restyled = kept * own + (1 - kept) * style.restyle(features, features[partner])
        inside = own_style * own + (1 - own_style) * restyled
        other = own[partner]
        restyled = kept * other + (1 - kept) * style.restyle(features[partner], features)
        mixed = (1 - own_style) * other + own_style * restyled
        y0, x0, y1, x1 = box
        mixed[:, :, y0:y1, x0:x1] = inside[:, :, y0:y1, x0:x1]
        mixed = F.interpolate(mixed, size=images.shape[-2:], mode="bilinear")
        return mixed if images.shape[1] == 3 else mixed.mean(1, keepdim=True)


def load_distances(folder: Path, classes: int) -> Tensor:
    """The table of style distances between classes, (K, K), 2 added on its diagonal; DataError
    where it is missing or another.
    """
    path = folder / f"styleDistanceMatrix{classes}"
    where = (
        "https://github.com/alsdml/StyleMix has it for CIFAR-10 and CIFAR-100; `gamma: "
        "random` needs none"
    )
    try:
        table = np.loadtxt(path, delimiter=",", ndmin=2)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: no readable table of style distances ({error}): {where}"
        ) from None
    if table.shape != (classes, classes):
        raise DataError(
            f"{path}: a table of {table.shape[0]} x {table.shape[1]}, not {classes} x {classes}: "
            f"{where}"
        )
    return torch.from_numpy(table + 2 * np.eye(classes)).float()
