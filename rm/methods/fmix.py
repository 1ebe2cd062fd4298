"""FMix: two images are joined along the level line of a low-frequency random image (Harris et al.,
arXiv 2002.12047).

lambda ~ Beta(alpha, alpha); a grey image of noise whose amplitude falls as frequency^-3; the own
image is where it is brightest, in ceil or floor of lambda N pixels by a fair coin, the partner
elsewhere. One mask a batch; labels keep lambda.

As released (ecs-vlc/FMix, and openmixup at 37e1372) the pair of numbers that should make a complex
one is taken for an axis of the image: only two rows of amplitudes and two horizontal frequencies
are left, and a mask varies along the width by one sinusoid (of its power 22 % are at horizontal
frequency 0 and 78 % at 1; meant were 43 and 54). `spectrum: full` is what was meant.

The mask is made on the host; nothing waits for the device.
"""

import math
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rm.methods import Method, Mixed, draw_partner
from rm.ops import mix_targets
from rm.schedules import StepContext

_DECAY = 3

Grey = NDArray[np.float64]


class FMix(Method):
    """alpha: parameter of the Beta distribution of the own image's share."""

    def __init__(
        self,
        *,
        alpha: Annotated[float, "alpha > 0"] = 1.0,
        spectrum: Literal["released", "full"] = "released",
    ) -> None:
        super().__init__()
        self.alpha, self.spectrum = alpha, spectrum

    def mix(
        self, images: Tensor, targets: Tensor, step: StepContext, model: nn.Module | None = None
    ) -> Mixed:
        generator = step.generator
        kept = float(generator.beta(self.alpha, self.alpha))
        size = (images.shape[-2], images.shape[-1])
        grey = low_frequency_image(size, generator, full=self.spectrum == "full")
        own = torch.from_numpy(brightest(grey, kept, generator))
        own = own.to(images.device, non_blocking=True)
        partner = draw_partner(images, generator)
        return Mixed(
            torch.where(own, images, images[partner]),
            mix_targets(targets, targets[partner], 1 - kept),
            partner,
            1 - kept,
            {"area": 1 - kept},
        )


def low_frequency_image(
    size: tuple[int, int], generator: np.random.Generator, *, full: bool
) -> Grey:
    """(H, W) within [0, 1]; zeros where noise has no contrast."""
    height, width = size
    columns = width // 2 + (1 if width % 2 == 0 else 2)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[:columns])
    amplitude = 1 / np.maximum(frequency, 1 / max(size)) ** _DECAY
    noise = generator.standard_normal((height, columns, 2))
    spectrum: NDArray[Any] = np.zeros((height, width // 2 + 1), dtype=complex)
    if full:
        coloured = (noise[..., 0] + 1j * noise[..., 1]) * amplitude
        spectrum[:] = coloured[:, : width // 2 + 1]
    else:
        count, across = min(columns, height), min(2, width // 2 + 1)
        lower = min(1, height - 1)
        real = noise[0, :count, :across] * amplitude[0, :count, None]
        imaginary = noise[lower, :count, :across] * amplitude[lower, :count, None]
        spectrum[:count, :across] = real + 1j * imaginary
    image = np.fft.irfft2(spectrum, size)
    image -= image.min()
    highest = image.max()
    return image / highest if highest > 0 else image


def brightest(grey: Grey, share: float, generator: np.random.Generator) -> NDArray[np.bool_]:
    """(H, W) -> where its ceil or floor of `share` N brightest pixels are."""
    wanted = share * grey.size
    count = math.ceil(wanted) if generator.random() < 0.5 else math.floor(wanted)
    mask = np.zeros(grey.size, dtype=bool)
    mask[np.argsort(-grey, axis=None, kind="stable")[:count]] = True
    return mask.reshape(grey.shape)
