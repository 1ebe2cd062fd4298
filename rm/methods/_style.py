"""Style transfer by adaptive instance normalisation (AdaIN, Huang & Belongie, ICCV 2017), as
StyleCutMix uses it.

The networks are those of naoto0804/pytorch-AdaIN, layer for layer, so that its files load: a
VGG-19 with normalised activations and reflection padding up to relu4_1, and a decoder that mirrors
it. Both are frozen.
"""

import hashlib
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from rm.datasets import DataError

ENCODER_FILE, DECODER_FILE = "vgg_normalised.pth", "decoder.pth.tar"


def _convolution(inputs: int, outputs: int, *, relu: bool = True) -> list[nn.Module]:
    return [nn.ReflectionPad2d(1), nn.Conv2d(inputs, outputs, 3), *([nn.ReLU()] if relu else [])]


def encoder() -> nn.Sequential:
    """VGG-19 to relu4_1: (B, 3, H, W) -> (B, 512, H/8, W/8), rounded up."""
    layers: list[nn.Module] = [nn.Conv2d(3, 3, 1)]
    width = 3
    for stage, (outputs, depth) in enumerate([(64, 2), (128, 2), (256, 4), (512, 1)]):
        if stage:
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
        for _ in range(depth):
            layers += _convolution(width, outputs)
            width = outputs
    return nn.Sequential(*layers)


def decoder() -> nn.Sequential:
    """The encoder backwards: (B, 512, h, w) -> (B, 3, 8h, 8w)."""
    layers: list[nn.Module] = []
    width = 512
    for outputs in ([256], [256, 256, 256, 128], [128, 64]):
        for output in outputs:
            layers += _convolution(width, output)
            width = output
        layers.append(nn.Upsample(scale_factor=2))
    return nn.Sequential(*layers, *_convolution(64, 64), *_convolution(64, 3, relu=False))


def adain(content: Tensor, style: Tensor) -> Tensor:
    """`content` with the mean and standard deviation of `style` in every channel: (B, C, h, w)
    each, any sizes -> as content.
    """
    variance, mean = torch.var_mean(content, dim=(2, 3), keepdim=True)
    wanted_variance, wanted_mean = torch.var_mean(style, dim=(2, 3), keepdim=True)
    return (content - mean) / (variance + 1e-5).sqrt() * (
        wanted_variance + 1e-5
    ).sqrt() + wanted_mean


class StyleTransfer(nn.Module):
    """The frozen pair. Under autocast its convolutions run in lower precision, its statistics
    never.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder(), decoder()
        self.requires_grad_(False).eval()

    def encode(self, images: Tensor) -> Tensor:
        features: Tensor = self.encoder(images)
        return features.float()

    def restyle(self, content: Tensor, style: Tensor) -> Tensor:
        """Features of two images -> an image of the first one's content in the second one's
        style.
        """
        image: Tensor = self.decoder(adain(content, style))
        return image.float()


def load_style_transfer(
    folder: Path, sources: Mapping[str, str], encoder_sha256: str = "", decoder_sha256: str = ""
) -> StyleTransfer:
    """Both networks from the files in `folder`; DataError where one is missing, damaged, or has
    another SHA-256 than given.

    sources   file name -> where it can be had, for the message
    """
    missing = [name for name in (ENCODER_FILE, DECODER_FILE) if not (folder / name).is_file()]
    if missing:
        places = "; ".join(f"{name}: {sources.get(name, 'unknown source')}" for name in missing)
        raise DataError(
            f"{folder} has no {' and no '.join(missing)}; put there what can be had from {places}"
        )
    networks = StyleTransfer()
    _load(networks.encoder, folder / ENCODER_FILE, encoder_sha256)
    _load(networks.decoder, folder / DECODER_FILE, decoder_sha256)
    return networks


def _load(network: nn.Sequential, path: Path, expected: str) -> None:
    """Fill a network from a file, which may have more layers than are used (VGG-19 goes on to
    relu5_4).
    """
    if expected:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != expected.lower():
            raise DataError(f"{path} has SHA-256 {found}, not {expected.lower()}: fetch it again")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        used = {
            name: value for name, value in state.items() if int(name.split(".")[0]) < len(network)
        }
        network.load_state_dict(used)
    except (RuntimeError, ValueError, AttributeError, EOFError, pickle.UnpicklingError) as error:
        raise DataError(f"{path} does not hold the weights of this network: {error}") from None
