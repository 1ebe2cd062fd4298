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

_LUMA = torch.tensor([0.299, 0.587, 0.114])
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
    W) uint8 to the same, or float16).
    """

    source: ByteSource
    transform: Any

    def __call__(self, image: int, seed: int) -> Tensor:
        """(H, W, 3); whatever `transform` draws follows from `seed` alone. DataError, with the
        file's name, for whatever is wrong with it.
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
    size: int,
    color_jitter: float,
    lighting: float,
    random_erasing: float,
    interpolation: str = "bilinear",
) -> Any:
    """A random part of the picture as size x size, mirrored half of the time, in other colours,
    perhaps with a hole.

    The released CutMix recipe (github.com/clovaai/CutMix-PyTorch, train.py) in its order; jitter
    in brightness, contrast and saturation. Erasing as in PVTv2's. Colours and noise leave 0..255,
    as they do there: only float16, with at least the resolution of 8 bits, can say so.
    """
    crop = crop_transform(size, interpolation=interpolation)
    colours: list[Any] = []
    if color_jitter:
        colours.append(ColorJitter(color_jitter))
    if lighting:
        colours.append(Lighting(lighting))
    if random_erasing:
        colours.append(v2.RandomApply([Erasing()], random_erasing))
    if colours:
        colours = [v2.ToDtype(torch.float32), *colours, v2.ToDtype(torch.float16)]
    return v2.Compose([crop, *colours])


def crop_transform(
    size: int,
    *,
    interpolation: str = "bilinear",
    smallest_area: float = 0.08,
    shorter_side: bool = False,
) -> Any:
    """A random part of the picture, of at least this area, as size x size, mirrored half of the
    time; shorter_side: of the picture resized to a shorter side of 256/224 * size.
    """
    mode, scale = v2.InterpolationMode(interpolation), (smallest_area, 1.0)
    steps = [_shorter(size, interpolation)] if shorter_side else []
    crop = v2.RandomResizedCrop(size, scale, interpolation=mode, antialias=True)
    return v2.Compose([*steps, crop, v2.RandomHorizontalFlip()])


def evaluation_transform(size: int, interpolation: str = "bilinear") -> Any:
    """The middle size x size of the picture resized to a shorter side of 256/224 * size."""
    return v2.Compose([_shorter(size, interpolation), v2.CenterCrop(size)])


def whole_transform(size: int) -> Any:
    """Pictures of size x size as they are; others resized to that."""
    return v2.Resize((size, size), antialias=True)


def _shorter(size: int, interpolation: str) -> Any:
    mode = v2.InterpolationMode(interpolation)
    return v2.Resize(round(256 / 224 * size), interpolation=mode, antialias=True)


class ColorJitter(torch.nn.Module):
    """Brightness, contrast and saturation in random order: each goes from black, the mean grey, or
    the picture's own grey to the picture, and beyond by up to `strength`, or as much less far.

    After clovaai/CutMix-PyTorch, utils.py: in floating point, clipped nowhere, as torchvision's is
    between its steps (7.8 % of the values at strength 0.4).
    """

    def __init__(self, strength: float) -> None:
        super().__init__()
        self.strength = strength

    def forward(self, pixels: Tensor) -> Tensor:
        """(3, H, W) floating -> the same."""
        amounts = torch.empty(3).uniform_(-self.strength, self.strength)
        for step in torch.randperm(3).tolist():
            origin = torch.zeros(())
            if step > 0:
                grey = torch.tensordot(_LUMA, pixels, 1)
                origin = grey.mean() if step == 1 else grey
            pixels = pixels + amounts[step] * (origin - pixels)
        return pixels


class Lighting(torch.nn.Module):
    """Adds E (a * v) to every pixel: E, v the principal components of RGB, a ~ N(0, std)
    (Krizhevsky et al., 2012, 4.1).
    """

    def __init__(self, std: float) -> None:
        super().__init__()
        self.std = std

    def forward(self, pixels: Tensor) -> Tensor:
        """(3, H, W) floating -> the same."""
        shift = (
            255 * _EIGENVECTORS @ (self.std * torch.randn(3, dtype=torch.float32) * _EIGENVALUES)
        )
        return pixels + shift[:, None, None]


class Erasing(torch.nn.Module):
    """Noise in place of a box: N(0, 1) in each normalised value (Zhong et al., 2020; timm's
    RandomErasing, mode "pixel").

    Area U(0.02, 1/3) of the picture, log of height/width U(log 0.3, log 1/0.3); ten attempts at a
    box that fits.
    """

    def forward(self, pixels: Tensor) -> Tensor:
        """(3, H, W) floating -> the same."""
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
                pixels[:, top : top + h, left : left + w] = 255 * noise
                break
        return pixels
