"""Pictures in files, decoded and augmented by torchvision in the processes that read them; each
picture has its own seed.

Importing this imports torchvision, which only data sets of pictures do, when they are loaded.
"""

import math
import warnings
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

from rm.datasets import DataError

# torchvision >= 0.29 says, in every process, that its decoders will go one day; requirements.lock
# holds a version that has them.
warnings.filterwarnings(
    "ignore", message="The image decoding and encoding capabilities", category=DeprecationWarning
)

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, per channel of values in [0, 1]."""

_EIGENVALUES = torch.tensor([0.2175, 0.0188, 0.0045])
_EIGENVECTORS = torch.tensor(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
)  # columns, of the RGB values in [0, 1] of ImageNet's training pixels


class ByteSource(Protocol):
    """Where the bytes of pictures are; it travels to other processes."""

    def read(self, image: int) -> bytes:
        """The file's content; OSError where there is none."""

    def name(self, image: int) -> str:
        """Where it is, for an error message."""


@dataclass(frozen=True)
class ImageReader:
    """The reader of a `DiskSplit`: picture number `image` of `source`, through `transform` ((3, H,
    W) uint8 to the same).
    """

    source: ByteSource
    transform: Any

    def __call__(self, image: int, seed: int) -> Tensor:
        """(H, W, 3) uint8; whatever `transform` draws follows from `seed` alone. DataError, with
        the file's name, for whatever is wrong with it.
        """
        pixels = self._decoded(image)
        try:
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(seed)
                picture: Tensor = self.transform(pixels)
            return picture.permute(1, 2, 0)
        except Exception as error:  # whatever a transform makes of an odd picture
            raise DataError(
                f"{self.source.name(image)}: a picture of {tuple(pixels.shape)} cannot be "
                f"augmented: {_first_line(error)}"
            ) from None

    def _decoded(self, image: int) -> Tensor:
        """(3, H, W) uint8."""
        data = b""
        try:
            data = self.source.read(image)
            pixels: Tensor = decode_image(
                torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB
            )
        except Exception as error:
            raise DataError(
                f"{self.source.name(image)}: expected a readable JPEG or PNG image, found "
                f"{len(data)} bytes that are none "
                f"({_first_line(error)}); put the original file there again"
            ) from None
        if pixels.ndim != 3:
            raise DataError(
                f"{self.source.name(image)}: expected one picture, found an animation of "
                f"{len(pixels)}; put the one that is meant there"
            )
        if pixels.dtype == torch.uint16:  # a 16-bit PNG: 65535 is white, as 255 is
            pixels = (pixels.to(torch.int32) + 128).div(257, rounding_mode="floor")
            pixels = pixels.to(torch.uint8)
        if pixels.dtype != torch.uint8:
            raise DataError(f"{self.source.name(image)}: {pixels.dtype} pixels are not supported")
        return pixels


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def training_transform(
    size: int, color_jitter: float, lighting: float, random_erasing: float
) -> Any:
    """A random part of the picture as size x size, mirrored half of the time, in other colours,
    perhaps with a hole.

    The released CutMix recipe (github.com/clovaai/CutMix-PyTorch, train.py) in its order; jitter
    in brightness, contrast and saturation. Erasing as in PVTv2's.
    """
    steps: list[Any] = [v2.RandomResizedCrop(size, antialias=True), v2.RandomHorizontalFlip()]
    if color_jitter:
        steps.append(v2.ColorJitter(color_jitter, color_jitter, color_jitter))
    if lighting:
        steps.append(Lighting(lighting))
    if random_erasing:
        steps.append(v2.RandomApply([Erasing()], random_erasing))
    return v2.Compose(steps)


def evaluation_transform(size: int) -> Any:
    """The middle size x size of the picture resized to a shorter side of 256/224 * size."""
    return v2.Compose([v2.Resize(round(256 / 224 * size), antialias=True), v2.CenterCrop(size)])


class Lighting(torch.nn.Module):
    """Adds E (a * v) to every pixel: E, v the principal components of RGB, a ~ N(0, std)
    (Krizhevsky et al., 2012, 4.1).
    """

    def __init__(self, std: float) -> None:
        super().__init__()
        self.std = std

    def forward(self, pixels: Tensor) -> Tensor:
        """(3, H, W) uint8 -> the same, rounded and cut to 0..255."""
        shift = (
            255 * _EIGENVECTORS @ (self.std * torch.randn(3, dtype=torch.float32) * _EIGENVALUES)
        )
        return (pixels + shift[:, None, None]).round_().clamp_(0, 255).to(torch.uint8)


class Erasing(torch.nn.Module):
    """Noise in place of a box: N(0, 1) in each normalised value (Zhong et al., 2020; timm's
    RandomErasing, mode "pixel").

    Area U(0.02, 1/3) of the picture, log of height/width U(log 0.3, log 1/0.3); ten attempts at a
    box that fits. The noise is written as grey levels, so that its tails end at black and white.
    """

    def forward(self, pixels: Tensor) -> Tensor:
        """(3, H, W) uint8 -> the same."""
        _, height, width = pixels.shape
        for _ in range(10):
            area = height * width * torch.empty(1).uniform_(0.02, 1 / 3).item()
            ratio = math.exp(torch.empty(1).uniform_(math.log(0.3), -math.log(0.3)).item())
            h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < h < height and 0 < w < width:
                top = int(torch.randint(height - h + 1, (1,)))
                left = int(torch.randint(width - w + 1, (1,)))
                noise = (
                    torch.randn(3, h, w) * torch.tensor(STD)[:, None, None]
                    + torch.tensor(MEAN)[:, None, None]
                )
                pixels = pixels.clone()
                pixels[:, top : top + h, left : left + w] = (
                    (255 * noise).round().clamp(0, 255).to(torch.uint8)
                )
                break
        return pixels
